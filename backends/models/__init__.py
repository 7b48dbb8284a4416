"""Creates model folders for the device: conversion, comparison with the original, manifest."""

from hybrid_llm.backends.models.convert import Precision, Progress, convert, write_manifest
from hybrid_llm.backends.models.parity import Floor, Parity
from hybrid_llm.backends.models.shapes import Shape, random_model

__all__ = [
    "Floor",
    "Parity",
    "Precision",
    "Progress",
    "Shape",
    "convert",
    "random_model",
    "write_manifest",
]
