"""Records -> tables. Nothing here imports torch."""
