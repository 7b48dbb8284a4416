"""The kinds of backends that `hybrid.yaml` can name, and how an app or a package adds one (see docs/extending.md)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from hybrid_llm.backends.following.spec import followable
from hybrid_llm.core.fields import Table, declared, table
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.registry import Registry
from hybrid_llm.core.request import Location


class BackendSpec(Protocol):
    """One entry under `backends:`, checked; nothing is opened yet.

    It is a frozen dataclass. Its field `name` holds the name of the entry; each field that is made with
    `hybrid_llm.core.fields.key` is a key of the file. `price`, `price_per_1k_tokens` and `kind` are read by the router.
    """

    @property
    def kind(self) -> str:
        """The name of its kind, such as `onnx`."""

    @property
    def name(self) -> str:
        """The backend's name, which policies use."""

    @property
    def location(self) -> Location:
        """Where the prompt goes, as privacy tags see it."""

    def fingerprint(self) -> str | None:
        """What the backend's speed depends on, to recognise it at the next start; None to store no predictions.

        Only its hash is stored.
        """

    def open(self) -> Backend:
        """Make the backend.

        Raises:
            ConfigError: a file or an option is unusable; the message says what to do.
        """


BACKENDS: Final[Registry[type[BackendSpec]]] = Registry(
    "kind of backend",
    group="hybrid_llm.backends",
    builtin={
        "onnx": "hybrid_llm.backends.edge.spec:EdgeConfig",
        "encoder": "hybrid_llm.backends.encoder.spec:EncoderConfig",
        "litert": "hybrid_llm.backends.litert.spec:LiteRTConfig",
        "grpc": "hybrid_llm.backends.grpc.spec:GrpcSpec",
        "openai": "hybrid_llm.backends.openai.spec:OpenAISpec",
        "anthropic": "hybrid_llm.backends.anthropic.spec:AnthropicSpec",
    },
)
"""Kind -> the dataclass that its entries are read into."""


def register_backend(kind: str, spec: type[BackendSpec]) -> None:
    """Let `kind: KIND` in `hybrid.yaml` mean the backend that *spec* opens; call it before the file is read.

    Raises:
        ConfigError: the kind is taken.
    """
    BACKENDS.register(kind, spec)


def table_of(kind: str) -> Table:
    """The keys of a backend of *kind*: what its `table()` returns where keys depend on each other, else its fields.

    Raises:
        ConfigError: there is no such kind, or its package cannot be imported.
    """
    spec = BACKENDS.get(kind)
    if (own := declared(spec)) is not None:
        return own
    make: Callable[..., BackendSpec] = spec
    own = table(spec, f"a backend of kind `{kind}`", make=lambda found: make(name=found.name, **found.values))
    return followable(own) if hasattr(spec, "with_model") else own
