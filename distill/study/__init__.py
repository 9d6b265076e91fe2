"""A grid of trainings, gathered in one table."""
