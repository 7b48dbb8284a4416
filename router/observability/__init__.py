"""Decisions in a file, for `policy diff` and `policy simulate`: facts and signals, never a text."""
