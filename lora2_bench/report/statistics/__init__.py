"""Intervals, tests, power and verdicts: pure functions of scores."""
