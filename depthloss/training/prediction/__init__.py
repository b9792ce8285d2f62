"""Depth of images that have no ground truth: the command `predict.py`."""
