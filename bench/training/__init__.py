"""What the losses cost and do in a training."""
