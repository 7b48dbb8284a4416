"""The client of cloud nodes: gRPC over mutual TLS. gRPC itself is imported with the first name that needs it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.grpc.spec import GrpcSpec

if TYPE_CHECKING:
    from hybrid_llm.backends.grpc.backend import GrpcBackend
    from hybrid_llm.backends.grpc.exchange import NodeDescription
    from hybrid_llm.backends.grpc.pool import GrpcPool

__all__ = ["GrpcBackend", "GrpcConfig", "GrpcPool", "GrpcSpec", "NodeDescription"]

if not TYPE_CHECKING:
    _HOME_OF = {"GrpcBackend": "backend", "GrpcPool": "pool", "NodeDescription": "exchange"}

    def __getattr__(name: str) -> object:
        """Load the module that *name* lives in, on first use (PEP 562)."""
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
