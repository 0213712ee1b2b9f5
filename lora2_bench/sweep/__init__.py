"""Hundreds of cells at once: planned, sent to this machine or to Slurm, and told where they are. Imports no torch."""
