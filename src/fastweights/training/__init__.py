"""Training, checkpoints, and runs over worker processes."""
