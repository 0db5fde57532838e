"""The demo and the retrieval server. Nothing is here yet; see the changelog."""
