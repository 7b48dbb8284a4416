"""Models with fewer weights: which parts matter least, and the same model without them."""
