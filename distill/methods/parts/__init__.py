"""What the methods share: adaptors, pairs of layers, stages, memories and discriminators."""
