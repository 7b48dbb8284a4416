"""Models with smaller numbers and fewer operators: quantisation of encoders and decoders, and fusion."""
