"""Measurements, run from the root of the repository: ``python -m benchmarks.attention.cpu``. They write to results/."""
