"""From samples to batches: data sets, samplers, loaders and the geometry of a frame."""
