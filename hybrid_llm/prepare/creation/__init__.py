"""Models from nothing: a tokenizer learnt from data, and weights drawn by a seed."""
