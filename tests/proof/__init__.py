"""What takes hours, or environments of its own: run by hand, its results are committed."""
