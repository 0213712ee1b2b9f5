"""The paper's printed figures, recomputed."""
