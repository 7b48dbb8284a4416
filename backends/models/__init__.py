"""Creates model folders for the device: conversion, comparison with the original, manifest."""

from hybrid_llm.backends.models.convert import Precision, Progress, convert
from hybrid_llm.backends.models.manifests import write_manifest
from hybrid_llm.backends.models.parity import Floor, Parity

__all__ = [
    "Floor",
    "Parity",
    "Precision",
    "Progress",
    "convert",
    "write_manifest",
]
