"""Reads files and formats from disk; every error names the file."""
