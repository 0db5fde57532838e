"""What runs on top of features: a retrieval index, an HTTP server and a demo in the browser."""
