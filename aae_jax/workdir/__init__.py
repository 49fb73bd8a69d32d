"""What happens in the directory of a run: training loop, checkpoints, records, scores, terminal."""
