"""What is to be run: cells, plans, suites, and the checks of their values."""
