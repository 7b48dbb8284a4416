"""The device: ONNX Runtime with a decode loop of our own."""

from hybrid_llm.backends.edge.backend import EdgeBackend
from hybrid_llm.backends.edge.folder import Manifest, read_manifest, verify_manifest
from hybrid_llm.backends.edge.spec import EdgeConfig
from hybrid_llm.backends.edge.store import ModelStore, embedded_model

__all__ = [
    "EdgeBackend",
    "EdgeConfig",
    "Manifest",
    "ModelStore",
    "embedded_model",
    "read_manifest",
    "verify_manifest",
]
