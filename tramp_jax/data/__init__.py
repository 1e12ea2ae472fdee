"""Clips and their landmarks: the readers of data sets, splits over subjects, checks, and packed copies."""
