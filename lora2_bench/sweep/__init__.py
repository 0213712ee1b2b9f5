"""Sweeps of hundreds of cells: planning, sending to this machine or to Slurm, running, status. Imports no torch."""
