"""Checkpoints: writing, finding and reading them, resuming and fine-tuning; the lock on their folder."""
