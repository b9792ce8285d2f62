"""The training loop: the Lightning module, the trainer and its callbacks."""
