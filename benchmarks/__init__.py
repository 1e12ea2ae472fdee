"""Measurements, mostly of speed: ``python -m benchmarks.NAME``, see docs/performance.md."""
