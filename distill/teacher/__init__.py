"""A frozen teacher, and its responses on disk."""
