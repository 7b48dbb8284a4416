"""The client of cloud nodes: gRPC over mutual TLS."""

from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.grpc.backend import GrpcBackend
from hybrid_llm.backends.grpc.exchange import NodeDescription
from hybrid_llm.backends.grpc.pool import GrpcPool, GrpcSpec

__all__ = ["GrpcBackend", "GrpcConfig", "GrpcPool", "GrpcSpec", "NodeDescription"]
