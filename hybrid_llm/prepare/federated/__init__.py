"""Federated tuning: several owners of data tune one model, and none of them hands its data out."""
