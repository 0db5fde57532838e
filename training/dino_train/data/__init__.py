"""Batches of training images: order, decoding, caches, failures."""
