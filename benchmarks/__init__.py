"""Measurements: each module runs on its own and writes its figures to ``benchmarks/results``."""
