"""Figures of the runs, as SVG and PNG files."""
