"""The keys of a backend of kind `grpc` in `hybrid.yaml`. Imports no gRPC: the file is read without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.core.fields import (
    ADDRESS,
    HOST,
    Choice,
    File,
    Found,
    Key,
    ListOf,
    Number,
    Table,
    Text,
    key,
    table,
)
from hybrid_llm.core.limits import PRIORITY
from hybrid_llm.core.request import Location
from hybrid_llm.core.secret import Secret, secret_table

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Backend

_TLS: Final = Table(
    title="tls",
    about="The files that authenticate this app and the node, in PEM form.",
    keys=(
        Key("ca", File(), "Certificate of the authority that signs the nodes' certificates.", required=True),
        Key("cert", File(), "Certificate of this app.", required=True),
        Key("key", File(), "Private key of this app.", required=True),
        Key("crl", File(), "The authority's list of revoked certificates; read again when it changes."),
    ),
    make=lambda found: TLSFiles(**found.values),
)

_TOKEN: Final = secret_table("token", "Where a signed token (JWT) is found that names this app to the nodes.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcSpec:
    """One or several of our nodes, over gRPC with mutual TLS."""

    kind: ClassVar[str] = "grpc"
    location: ClassVar[Location] = Location.CLOUD
    name: str
    targets: tuple[str, ...] = key(
        ListOf(ADDRESS, least=1), "Addresses of several nodes, HOST:PORT.", default=(), examples=(["a.example:7443"],)
    )
    tls: TLSFiles = key(_TLS, _TLS.about, hint="tls: {ca: ca.pem, cert: app.pem, key: app.key}")
    model: str = key(
        Text("the name of a model"),
        "What answers, by its name: the nodes' model, as without it, or one of their LoRA adapters.",
        default="",
    )
    token: Secret | None = key(_TOKEN, _TOKEN.about, default=None, hint="token: {file: token.jwt}")
    priority: int = key(
        PRIORITY,
        "Priority of requests that name none, up to that of a rights file of the nodes; each step doubles the share.",
        default=0,
    )
    server_name: str | None = key(
        HOST, "Name in the nodes' certificates, if it is not the host of the address.", default=None
    )
    resolve: bool = key(
        Choice({"first": False, "all": True}),
        "`all` makes each address that a host name resolves to a node of its own.",
        default=False,
    )
    energy_per_1k_tokens_j: float = key(
        Number(), "Energy that the device spends to send and receive 1,000 tokens, joules.", default=0.0
    )
    sealed: SealedSpec | None = key(
        SealedSpec.table(),
        "Seals prompts and answers between this app and the nodes, whatever ends TLS in between.",
        default=None,
        examples=({"keys": "sealing.pub"},),
    )

    @classmethod
    def table(cls) -> Table:
        """The keys; `target: HOST:PORT` stands for `targets` with one item."""
        single = Key("target", ADDRESS, "Address of the one node, HOST:PORT.")
        only_one = ("target", "targets")
        return table(cls, "a backend of kind `grpc`", make=cls._make, extra=(single,), exactly_one=only_one)

    @classmethod
    def _make(cls, found: Found) -> GrpcSpec:
        values: dict[str, Any] = dict(found.values)
        target = values.pop("target")
        return cls(name=found.name, **values | ({"targets": (target,)} if target else {}))

    def fingerprint(self) -> str:
        """The nodes' addresses, the name in their certificates, and the model if one is named."""
        named = f" {self.model}" if self.model else ""
        return f"{' '.join(self.targets)} {self.server_name or ''}{named}"

    def open(self) -> Backend:
        """Make the backend; ConfigError if a certificate file is unusable. Nothing is connected yet."""
        from hybrid_llm.backends.grpc.backend import GrpcBackend
        from hybrid_llm.backends.grpc.pool import GrpcPool
        from hybrid_llm.backends.wire.revocation import existing

        if self.tls.crl is not None:
            existing(self.tls.crl)
        configs = [
            GrpcConfig(
                name=self.name,
                target=target,
                tls=self.tls,
                model=self.model,
                token=self.token,
                priority=self.priority,
                server_name=self.server_name,
                energy_per_1k_tokens_j=self.energy_per_1k_tokens_j,
                sealed=self.sealed,
            )
            for target in self.targets
        ]
        if len(configs) == 1 and not self.resolve:
            return GrpcBackend(configs[0])
        return GrpcPool(configs, name=self.name)
