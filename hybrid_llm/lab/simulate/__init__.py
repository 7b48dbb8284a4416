"""Tries a policy on a trace of requests before it decides over real ones: a model of device, network and node."""
