"""Lets a stopped fit resume as if it had never stopped."""
