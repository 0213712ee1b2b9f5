"""The training loop: step, evaluation, state, checkpoints, and the ranks of a process group."""
