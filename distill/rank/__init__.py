"""Candidate teachers, ordered by their divergence from a student."""
