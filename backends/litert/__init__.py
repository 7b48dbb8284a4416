"""Encoders on this device in LiteRT, the runtime of `.tflite` files."""
