"""The kinds of backends that `hybrid.yaml` can name, and how an app or a package adds one (see docs/extending.md)."""

from __future__ import annotations

from typing import Final, Protocol

from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.registry import Registry
from hybrid_llm.core.request import Location


class BackendSpec(Protocol):
    """One entry under `backends:`, checked: a frozen dataclass with one field per key. Nothing is opened yet."""

    @property
    def kind(self) -> str:
        """The name of its kind, such as `onnx`."""
        ...

    @property
    def name(self) -> str:
        """The backend's name, which policies use."""
        ...

    @property
    def location(self) -> Location:
        """Where the prompt goes, as privacy tags see it."""
        ...

    def fingerprint(self) -> str | None:
        """What the backend's speed depends on, to recognise it at the next start; None to store no predictions.

        Only its hash is stored.
        """
        ...

    def open(self) -> Backend:
        """Make the backend.

        Raises:
            ConfigError: a file or an option is unusable; the message says what to do.
        """
        ...


BACKENDS: Final[Registry[type[BackendSpec]]] = Registry(
    "kind of backend",
    group="hybrid_llm.backends",
    builtin={
        "onnx": "hybrid_llm.backends.edge.backend:EdgeConfig",
        "grpc": "hybrid_llm.backends.grpc.config:GrpcSpec",
    },
)
"""Kind -> the dataclass that its entries are read into."""


def register_backend(kind: str, spec: type[BackendSpec]) -> None:
    """Let `kind: KIND` in `hybrid.yaml` mean the backend that *spec* opens; call it before the file is read.

    Raises:
        ConfigError: the kind is taken.
    """
    BACKENDS.register(kind, spec)
