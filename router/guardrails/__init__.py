"""Guardrails: what a request must not ask, and an answer must not say. Privacy is the guard's, elsewhere."""
