"""Explains an answer of a model: which tokens of the text it follows from, and how far such an explanation holds."""
