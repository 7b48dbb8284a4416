"""Recipes: files that name steps, the runner that does those that are not up to date, their records and cards."""
