"""Drawn faces that make expressions with a known severity, so everything runs without data."""
