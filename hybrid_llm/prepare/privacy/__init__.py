"""Tuning with differential privacy, and audits of what a tuned model gives away about the records it was tuned on."""
