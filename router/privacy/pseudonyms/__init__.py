"""Pseudonyms: the values of a session in every spelling, and the names that stand for them."""
