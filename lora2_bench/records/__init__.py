"""The record of a cell and its schema, the store they live in, locks, and progress."""
