"""Runs to the paper's tables, as Markdown, LaTeX and CSV."""
