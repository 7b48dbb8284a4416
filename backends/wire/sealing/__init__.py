"""Sealed mode: prompts sealed to a node's own key, answers under a key of the request, whatever ends TLS in between."""
