"""The training loop: step, evaluation, state, checkpoints, and the processes that share a cell."""
