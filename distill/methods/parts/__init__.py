"""Shared by the methods: adaptors, pairs of layers, stages, memories, discriminators and warm-up."""
