"""The records, errors and protocols that all layers share. It imports no other layer."""
