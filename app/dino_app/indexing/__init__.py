"""Building, changing and checking a retrieval index."""
