"""Paths, whole-file writes, digests, and snapshots of the hub."""
