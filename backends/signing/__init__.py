"""Signatures of models in the format of OpenSSF model-signing: made and verified with `cryptography` alone, offline."""
