"""The layout of a text: pairs, tables and markup, whose labels say what a value is."""
