"""Checks and timings on an accelerator: `python -m benchmarks.accelerator`."""
