"""The tables of fields, one for each API."""
