"""Tuning: all weights or a LoRA adapter, of decoders and encoders, in one process or in many."""
