"""Training: configuration, batches, the loop, resume points."""
