"""Reading YAML strictly, with the position of every value."""
