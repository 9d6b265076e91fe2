"""Shared by the losses: checks and reductions, precision, pooling, distances, and recomputing in chunks."""
