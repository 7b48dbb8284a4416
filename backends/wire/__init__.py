"""What client and node share: certificates, TLS, channels, messages, status codes. Imports no gRPC by itself."""

import hybrid_llm.backends.wire.forks  # noqa: F401  # first: it prepares what gRPC reads when it starts
from hybrid_llm.backends.wire.certificates import CertificateInfo, TLSFiles, inspect, issue, make_authority
from hybrid_llm.backends.wire.tls import check_pair

__all__ = ["CertificateInfo", "TLSFiles", "check_pair", "inspect", "issue", "make_authority"]
