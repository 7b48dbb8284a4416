"""Decisions in a file, for `policy diff` and `policy simulate`: metadata and signals, never a text."""
