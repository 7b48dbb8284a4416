"""The client of a cloud node: gRPC over mutual TLS."""

from hybrid_llm.backends.cloud.backend import CloudBackend
from hybrid_llm.backends.cloud.config import CloudConfig, NodeDescription
from hybrid_llm.backends.cloud.pool import CloudPool

__all__ = ["CloudBackend", "CloudConfig", "CloudPool", "NodeDescription"]
