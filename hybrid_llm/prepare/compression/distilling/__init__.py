"""A small model that learns from the probabilities or the answers of a large one."""
