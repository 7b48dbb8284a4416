"""The keys under `gateway:` of `hybrid.yaml`: where the HTTP gateway listens, for whom, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.database.keys import DATABASE
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import (
    ADDRESS,
    HOST,
    Choice,
    File,
    Flag,
    ListOf,
    Whole,
    duration,
    key,
    table,
)
from hybrid_llm.core.hosts import canonical_address, is_this_machine


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles(Checked):
    """The certificate of a gateway; files that are replaced are read again within seconds."""

    cert: Path = key(File(), "The certificate, with those that signed it, PEM.")
    key: Path = key(File(), "Its private key, PEM.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig(Checked):
    """Where a gateway listens, whom it answers, and how much it takes."""

    listen: str = key(ADDRESS, "Where it listens; port 0 picks a free one.", default="127.0.0.1:8080")
    keys: Path | None = key(
        File(), "The keys of its clients; these, or rights, are needed to listen beyond loopback.", default=None
    )
    rights: Path | None = key(
        File(), "A rights file: who may do what, and how much; whatever it does not allow is refused.", default=None
    )
    quotas: DatabaseAddress | None = key(
        DATABASE,
        "Where what of its quotas is used is remembered, by a PostgreSQL database for several gateways; a restart else"
        " forgets it.",
        default=None,
    )
    tls: TlsFiles | None = key(table(TlsFiles, "tls"), "Encrypts connections.", default=None)
    hosts: tuple[str, ...] = key(
        ListOf(HOST), "Names by which clients reach it, beside `localhost`; with keys any name will do.", default=()
    )
    unknown_models: str = key(
        Choice.of("auto", "refuse"),
        "A model that no backend has: `auto` lets the policy choose, `refuse` answers 404.",
        default="auto",
    )
    body_bytes: int = key(Whole(1), "Bytes of a request; a larger one is refused with 413.", default=8 << 20)
    connections: int = key(
        Whole(1, 1_000_000), "Connections and requests at once; more are refused with 503.", default=4096
    )
    read_timeout_s: float = key(duration(), "For a client to send its request.", name="read_timeout", default=30.0)
    write_timeout_s: float = key(duration(), "For a client to take what is sent.", name="write_timeout", default=30.0)
    responses: int = key(
        Whole(0, 1_000_000), "Answers of the Responses API that `previous_response_id` can name.", default=1024
    )
    response_characters: int = key(Whole(0, 10**9 - 1), "Characters of these answers together.", default=64 << 20)
    drain_s: float = key(
        duration(positive=False),
        "After SIGTERM, how long requests are still answered while `/health` says 503, so that load balancers leave.",
        name="drain",
        default=0.0,
    )
    grace_s: float = key(
        duration(positive=False), "After that, for running answers to end.", name="grace", default=10.0
    )
    sealed: Path | None = key(
        File(), "A folder of X25519 sealing keys: the gateway then takes bodies that are sealed by EHBP.", default=None
    )
    only_sealed: bool = key(Flag(), "Refuse requests that are not sealed.", default=False)
    console: bool = key(Flag(), "Whether the page of the console is served at `/`.", default=True)

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        if self.only_sealed and self.sealed is None:
            raise ConfigError("only_sealed: a gateway that takes sealed requests only needs `sealed`, a folder of keys")
        try:
            canonical_address(self.listen, lowest_port=0)
        except ValueError as error:
            raise ConfigError(f"listen: {error}") from None
        if self.quotas is not None and self.rights is None:
            raise ConfigError("quotas: it needs `rights`, the file with the limits")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of *listen*."""
        return canonical_address(self.listen, lowest_port=0)

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach it."""
        return is_this_machine(self.address[0])
