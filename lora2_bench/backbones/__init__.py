"""The pinned encoder with its classification head, and how it is loaded."""
