"""Leaves TLS 1.3 as the only version that a gRPC server of this process speaks. Imports no gRPC: it must come first.

gRPC has no setting for a minimum version. Our certificates are ECDSA; a TLS 1.2 suite that needs RSA leaves TLS 1.2
without any suite, while those of TLS 1.3 are not affected. gRPC reads the variable once, when it is imported.
"""

from __future__ import annotations

import os
import sys

__all__ = ["require_tls13", "tls13_required"]

_VARIABLE = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES128-GCM-SHA256"


def require_tls13() -> bool:
    """Call before gRPC is imported; returns whether the handshake itself will refuse TLS 1.2.

    It touches every gRPC connection of the process, so only a process that is a node does this. Where it comes too
    late, the node's interceptor still refuses each call over TLS 1.2.
    """
    if "grpc" not in sys.modules:
        os.environ[_VARIABLE] = _RSA_ONLY
    return tls13_required()


def tls13_required() -> bool:
    """Whether gRPC was told, before its import, to refuse TLS 1.2 in the handshake."""
    return os.environ.get(_VARIABLE) == _RSA_ONLY
