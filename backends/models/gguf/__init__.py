"""Imports a GGUF file as a model folder for the device: blocks are moved, not quantised again. No torch, no network."""

from hybrid_llm.backends.models.gguf.importer import import_gguf, is_outdated

__all__ = ["import_gguf", "is_outdated"]
