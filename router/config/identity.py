"""Identifies a configured backend by what its speed depends on, so that stored predictions fit. Opens no backend."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hybrid_llm.backends.registry import BackendSpec
from hybrid_llm.core.request import Location
from hybrid_llm.router.signals.store import Identity, device_of


def identities(specs: Iterable[BackendSpec]) -> dict[str, Identity]:
    """The identity of each backend that has one; a model folder that cannot be read has none."""
    found = {spec.name: identity_of(spec) for spec in specs}
    return {name: identity for name, identity in found.items() if identity is not None}


def identity_of(spec: BackendSpec) -> Identity | None:
    """The kind, the hash of the fingerprint (never a host's address itself), and the device where it runs on this."""
    fingerprint = spec.fingerprint()
    if fingerprint is None:
        return None
    device = device_of() if spec.location is Location.EDGE else "node"
    return Identity(kind=spec.kind, model=hashlib.sha256(fingerprint.encode()).hexdigest(), device=device)
