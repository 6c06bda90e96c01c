"""Data-parallel training: the feed, the ring, the rate, the step and the checkpoint."""
