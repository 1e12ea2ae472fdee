"""Drawn faces that make expressions with a known severity, so that everything runs without data."""
