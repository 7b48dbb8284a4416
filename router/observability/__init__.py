"""Hooks, metrics and recordings: what an operator sees of requests, without their texts."""
