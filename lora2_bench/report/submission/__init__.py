"""Stored test predictions -> the zip that GLUE's server takes."""
