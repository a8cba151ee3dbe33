"""Tables of results as self-contained pages, pictures and terminal tables."""
