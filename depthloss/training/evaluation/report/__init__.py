"""The page of an evaluation, in one HTML file."""
