"""Verifies, by bounded search, where the requests of each tag can go: runs the real guard, policy and attempts."""
