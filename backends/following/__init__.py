"""Follows an alias of a registry on a device: new versions replace the model in use, and a bad one is taken back."""
