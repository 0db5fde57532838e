"""Retrieval stores: vectors with names and metadata, searched by cosine similarity."""
