"""Where a cloud node is and how it is reached; checked when it is made, before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_llm.backends.wire.certificates import TLSFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcConfig:
    """One cloud node, as an app names it."""

    target: str
    """`HOST:PORT`, or `[IPv6]:PORT`."""
    tls: TLSFiles
    name: str = "cloud"
    """The name that policies use."""
    server_name: str | None = None
    """Whom the node's certificate must name, where that is not the host of *target*."""
    context_window: int = 0
    """Most tokens of prompt and answer together; 0 learns it from the node with the first call or `probe`."""
    max_message_bytes: int = 4 * 1024 * 1024
    connect_timeout: float = 5.0
    """Seconds that one attempt to connect may take."""
    energy_per_1k_tokens_j: float = 0.0
    """What the device spends to send and receive 1,000 tokens, joules, as somebody measured it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDescription:
    """What a node says of itself, and what was measured on the way."""

    protocol: int
    version: str
    """Of the node's software."""
    model: str
    engine: str
    device: str
    context_window: int
    output_schema: bool
    tools: bool
    ready: bool
    reason: str
    """Why it is not ready, for people."""
    active: int
    queue: int
    slots: int
    clock_skew_s: float
    """The node's clock minus ours, seconds; sure to half the round trip."""
    rtt_ms: float
    tls_version: str
    tls_group: str
    """The key exchange, such as `X25519MLKEM768`."""
    identity: str
    """Who we are to the node."""
