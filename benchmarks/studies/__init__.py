"""Measurements that are commands of their own, as ``python -m benchmarks.studies.claims``."""
