"""What the losses share: checks, precision, pooling, distances and memory."""
