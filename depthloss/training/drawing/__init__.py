"""Pictures of depth maps and of a run."""
