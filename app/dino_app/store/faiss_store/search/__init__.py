"""Search in the FAISS store: exact, approximate, filtered, on a GPU."""
