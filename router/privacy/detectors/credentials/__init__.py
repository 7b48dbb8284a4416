"""Passwords, keys and tokens, by their format and by the words beside them."""
