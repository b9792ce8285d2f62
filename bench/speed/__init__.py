"""How fast and how lean the losses are."""
