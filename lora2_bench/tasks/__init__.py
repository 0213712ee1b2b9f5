"""GLUE tasks: what they are, where their rows come from, batches and metrics."""
