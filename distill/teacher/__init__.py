"""The frozen teacher, and the cache of its responses on disk."""
