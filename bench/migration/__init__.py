"""What the migration pages promise, measured."""
