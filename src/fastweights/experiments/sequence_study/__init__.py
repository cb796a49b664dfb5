"""What the experiments on sorting and on repeated copying share."""
