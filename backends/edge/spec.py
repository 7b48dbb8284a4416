"""What `kind: onnx` in `hybrid.yaml` holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from hybrid_llm.backends.edge.folder import read_manifest
from hybrid_llm.backends.edge.store import DEFAULT, default_model, named_models
from hybrid_llm.backends.signing.trust import TRUST, Trust
from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, File, Flag, Number, Whole, key, one_of
from hybrid_llm.core.request import Location

if TYPE_CHECKING:
    from hybrid_llm.backends.edge.backend import EdgeBackend


@dataclass(frozen=True, kw_only=True)
class EdgeConfig(Checked):
    """A model on this device, run by ONNX Runtime."""

    kind: ClassVar[str] = "onnx"
    location: ClassVar[Location] = Location.EDGE

    name: str = "edge"
    model: Path | None = key(
        one_of(
            File(
                "the name of an added model, the path of a model folder, `embedded`",
                names=named_models,
                remedy="(`hybrid-llm models add NAME` adds a model; a path has a slash)",
            ),
            Choice({DEFAULT: None}),
        ),
        "The model. `default` is the one that `hybrid-llm models use` chose, else `embedded`, a demonstration model.",
        default=None,
    )
    load: Literal["lazy", "eager"] = key(
        Choice.of("lazy", "eager"), "When the model is loaded: on first use, or at the start.", default="lazy"
    )
    threads: int = key(
        Whole(0, 1024), "Threads of the runtime; 0 chooses: every processor, or fewer beside busy processes.", default=0
    )
    max_concurrency: int = key(Whole(1, 1024), "Requests that run at once.", default=2)
    max_queue: int = key(Whole(), "Requests that may wait; more are rejected with `BackendOverloaded`.", default=16)
    memory_limit_mb: int = key(
        Whole(1), "Memory for key-value caches, of running requests and of stored prefixes, MiB.", default=512
    )
    reuse_prefixes: bool = key(
        Flag(), "Store key-value caches for later requests of the same tenant with the same beginning.", default=True
    )
    speculation: Literal["auto", "off"] = key(
        Choice.of("auto", "off"), "Speculative decoding by prompt lookup; answers stay the same.", default="auto"
    )
    energy_per_1k_tokens_j: float = key(
        Number(), "Energy that 1,000 tokens cost the device, joules, as measured by the integrator.", default=0.0
    )
    trust: Trust | None = key(
        TRUST,
        "Who must have signed the model: `{ca: FILE, identity: URI}` or `{key: FILE}`. Without it, any is loaded.",
        default=None,
    )
    spin: bool = True
    """Let the runtime's threads spin between steps: faster on an idle device, far slower on a busy one."""

    @property
    def folder(self) -> Path:
        """The model folder; ConfigError if the default model is gone."""
        return self.model or default_model()

    def fingerprint(self) -> str | None:
        """The digests of the model's files and the number of threads; None if the model folder cannot be read."""
        try:
            manifest = read_manifest(self.folder)
        except ConfigError:
            return None  # opening the backend reports what is wrong with it
        return f"{manifest.listed}\nthreads {self.threads}"

    def open(self) -> EdgeBackend:
        """Make the backend; ConfigError if its folder or an option is unusable."""
        from hybrid_llm.backends.edge.backend import EdgeBackend

        return EdgeBackend(self)

    def with_model(self, folder: Path, *, loaded: bool) -> EdgeConfig:
        """The same with the model in *folder*, which is loaded at once where *loaded* says so."""
        return replace(self, model=folder, load="eager" if loaded else self.load)
