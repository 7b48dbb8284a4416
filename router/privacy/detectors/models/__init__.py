"""Detectors that are models: token classifiers in ONNX, and Presidio."""
