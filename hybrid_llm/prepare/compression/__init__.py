"""Smaller and faster models: distillation, pruning, quantisation, fusion, and the choice among the results."""
