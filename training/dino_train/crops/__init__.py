"""Crops of images: their parameters, and the executors that make them."""
