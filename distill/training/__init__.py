"""Parts of a fit that the two base classes use: losses, scores, checks, optimiser, compilation."""
