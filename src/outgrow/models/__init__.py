"""Models: from a spelling to files, and from texts to features."""
