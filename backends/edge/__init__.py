"""The device: ONNX Runtime with a decode loop of our own."""

from hybrid_llm.backends.edge.backend import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.edge.folder import Manifest, read_manifest, verify_manifest

__all__ = ["EdgeBackend", "EdgeConfig", "Manifest", "embedded_model", "read_manifest", "verify_manifest"]
