"""What a configured backend is, as far as its speed depends on it. It opens no backend."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.signals.store import Identity, device_of

if TYPE_CHECKING:
    from hybrid_llm.router.config import BackendSpec, CloudSpec, EdgeSpec


def identities(specs: Iterable[BackendSpec]) -> dict[str, Identity]:
    """The identity of each backend that has one; a model folder that cannot be read has none."""
    found = {spec.name: identity_of(spec) for spec in specs}
    return {name: identity for name, identity in found.items() if identity is not None}


def identity_of(spec: BackendSpec) -> Identity | None:
    """Of an edge backend the digests of its model's files; of a node the hash of its address, never the address."""
    from hybrid_llm.router.config import EdgeSpec

    return _edge(spec) if isinstance(spec, EdgeSpec) else _node(spec)


def _edge(spec: EdgeSpec) -> Identity | None:
    from hybrid_llm.backends.edge.backend import embedded_model
    from hybrid_llm.backends.edge.folder import read_manifest

    try:
        manifest = read_manifest(spec.model or embedded_model())
    except ConfigError:
        return None  # opening the backend tells what is wrong with it
    listed = "\n".join(f"{name} {entry.sha256}" for name, entry in sorted(manifest.files.items()))
    model = hashlib.sha256(f"{listed}\nthreads {spec.threads}".encode()).hexdigest()
    return Identity(kind="onnx", model=model, device=device_of())


def _node(spec: CloudSpec) -> Identity:
    address = hashlib.sha256(f"{' '.join(spec.targets)} {spec.server_name or ''}".encode()).hexdigest()
    return Identity(kind="grpc", model=address, device="node")
