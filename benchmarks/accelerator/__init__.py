"""What the package does on an accelerator: `python -m benchmarks.accelerator`."""
