"""Files of the FAISS store, as they lie on the disk."""
