"""Runs to figures, as SVG and PNG."""
