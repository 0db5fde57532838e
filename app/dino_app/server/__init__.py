"""The HTTP server: embeddings, search, items, classification and attention over one store."""
