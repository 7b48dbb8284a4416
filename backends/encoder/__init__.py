"""Encoders on the device: classifiers of texts and of their tokens, in ONNX, at a fraction of a generator's cost."""
