"""Clients of other libraries: each file imports one framework, and gives it our `generate` in that framework's form."""
