"""Serving a live stream: the session (`session`) and the real-time command line (`cli`)."""
