"""The renderer of the street scenes that need no download."""
