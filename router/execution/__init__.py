"""Carrying out a decision: attempts, hedges, continuations, and the answer that comes of them."""
