"""Metrics: pure functions of answers and references, equal to the field's reference implementations."""
