"""Whose signatures of models are accepted: the keys `ca`, `identity` and `key` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.core.fields import File, Table, Text, key, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Who must have signed a model before it is loaded."""

    ca: Path | None = key(
        File("the path of a PEM file"),
        "The authority of the signer's certificate, such as the `ca.pem` of `hybrid-llm certs init`.",
        default=None,
    )
    identity: str | None = key(
        Text("a name in the signer's certificate, such as spiffe://hybrid-llm/signer/release"),
        "With `ca`: the only signer that is accepted; by default every certificate of the authority for signing.",
        default=None,
    )
    key: Path | None = key(
        File("the path of a PEM file"), "In place of `ca`: the public key of the signer, ECDSA.", default=None
    )


TRUST: Final[Table] = table(Trust, "whose signature a model must have", exactly_one=("ca", "key"))
"""The kind of a key that holds a `Trust`."""
