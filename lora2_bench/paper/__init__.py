"""The paper's printed figures as data, and their audit."""
