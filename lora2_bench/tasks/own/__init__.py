"""A user's own task: what its YAML says, and its rows from files in several formats."""
