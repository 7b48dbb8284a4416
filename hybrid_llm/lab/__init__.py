"""Trying a policy before it decides over real requests: cases, simulate, diff, verify."""
