"""The optional mirror of runs on Weights & Biases."""
