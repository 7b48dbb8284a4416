"""Servers that speak Anthropic's Messages, as backends: Anthropic's own, and others with the same API."""
