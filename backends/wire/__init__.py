"""Certificates and channels: who may speak to whom, and how it is kept from others. Imports no gRPC by itself."""

from hybrid_llm.backends.wire.certificates import CertificateFacts, TLSFiles, inspect, issue, make_authority
from hybrid_llm.backends.wire.tls import check_pair

__all__ = ["CertificateFacts", "TLSFiles", "check_pair", "inspect", "issue", "make_authority"]
