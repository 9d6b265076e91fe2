"""What serves a fit beside the two base classes."""
