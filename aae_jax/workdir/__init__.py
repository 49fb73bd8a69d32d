"""The directory of a run: training loop, checkpoints, records, scores, report and terminal."""
