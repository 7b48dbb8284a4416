"""Data for tuning and evaluation: reading, cleaning, splitting and packing."""
