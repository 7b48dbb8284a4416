"""What `kind: encoder` in `hybrid.yaml` holds, and what the labels of its model mean to requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from hybrid_llm.backends.edge.store import stored_models
from hybrid_llm.backends.encoder.classifiers import kinds_by_label
from hybrid_llm.backends.encoder.files import (
    ONNX,
    OUTSIDE,
    ModelFiles,
    fingerprint_of,
    invalid,
    labels_of,
    read_config,
    type_of,
)
from hybrid_llm.backends.signing.trust import TRUST, Trust
from hybrid_llm.core.fields import Choice, File, MapOf, Number, Text, Whole, key
from hybrid_llm.core.request import Location
from hybrid_llm.core.taskform import CLASSIFY, EXTRACT

if TYPE_CHECKING:
    from hybrid_llm.backends.encoder.backend import EncoderBackend
    from hybrid_llm.backends.encoder.model import Encoder

_SERVES: Final[Mapping[str, str]] = {"ForSequenceClassification": CLASSIFY, "ForTokenClassification": EXTRACT}
"""The end of an architecture's name -> the task that it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """A classifier of texts, or of their tokens, on this device: it serves the task `classify` or `extract` alone."""

    kind: ClassVar[str] = "encoder"
    location: ClassVar[Location] = Location.EDGE
    graph: ClassVar[str] = ONNX
    """The name of the file with the weights."""

    name: str = "encoder"
    model: Path = key(
        File(
            "the name of a model of the store, or the path of a model folder",
            names=stored_models,
            remedy="(`hybrid-llm models pull NAME --registry URL` gets a model; a path has a slash)",
        ),
        "The folder with `model.onnx`, `tokenizer.json` and `config.json`, or the name under which a model was pulled.",
    )
    labels: Mapping[str, str] = key(
        MapOf(Text("a label that requests use")),
        "Label of the model -> the label, or kind of entity, that requests use; by default all, in lower case.",
        default={},
    )
    min_score: float = key(
        Number(0.0, 1.0), "Of a token classifier: the least probability of what it extracts.", default=0.5
    )
    trust: Trust | None = key(
        TRUST,
        "Who must have signed the model: `{ca: FILE, identity: URI}` or `{key: FILE}`. Without it, any is loaded.",
        default=None,
    )
    load: Literal["lazy", "eager"] = key(
        Choice.of("lazy", "eager"), "When the model is loaded: on first use, or at the start.", default="lazy"
    )
    threads: int = key(Whole(1, 1024), "Threads of the runtime for each request.", default=1)
    max_concurrency: int = key(Whole(1, 1024), "Requests that run at once.", default=2)
    max_queue: int = key(Whole(), "Requests that may wait; more are rejected with `BackendOverloaded`.", default=64)
    energy_per_1k_tokens_j: float = key(
        Number(), "Energy that 1,000 tokens cost the device, joules, as measured by the integrator.", default=0.0
    )

    def fingerprint(self) -> str | None:
        """The digests of the model's files and the number of threads; None if they cannot be read."""
        files = fingerprint_of(self.model, self.graph)
        return None if files is None else f"{files}\nthreads {self.threads}"

    def with_model(self, folder: Path, *, loaded: bool) -> Self:
        """The same with the model in *folder*, which is loaded at once where *loaded* says so."""
        return replace(self, model=folder, load="eager" if loaded else self.load)

    def open_encoder(self) -> Encoder:
        """Load the model; ConfigError if its files are unusable."""
        from hybrid_llm.backends.encoder.model import Encoder

        return Encoder(ModelFiles.in_folder(self.model), threads=self.threads)

    def open(self) -> EncoderBackend:
        """Make the backend; ConfigError if its folder or an option is unusable."""
        from hybrid_llm.backends.encoder.backend import EncoderBackend

        return EncoderBackend(self)


def meaning(config: EncoderConfig) -> tuple[str, Mapping[str, str]]:
    """The task of the model, and label -> what requests call it.

    Raises:
        ConfigError: the model serves none, or has no such label.
    """
    source, settings = str(config.model), read_config(config.model, config.graph)
    named = settings.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    task = next((task for end, task in _SERVES.items() if architecture.endswith(end)), "")
    if not task:
        known = " or ".join(f"...{end}" for end in _SERVES)
        raise invalid(source, f"`architectures` of config.json is {architecture or 'missing'!r}; an encoder is {known}")
    if settings.get("problem_type") == "multi_label_classification":
        raise invalid(source, "the model gives a text several labels; `classify` needs one that gives it one")
    labels = dict.fromkeys(map(type_of, labels_of(settings, source)))
    if task == EXTRACT:
        labels.pop(OUTSIDE, None)
    else:
        labels = dict.fromkeys(labels_of(settings, source))
    for label in config.labels:
        if label not in labels:
            raise invalid(source, f"the model has no label {label!r}; it knows {', '.join(labels)}")
    names = dict(config.labels) or kinds_by_label(labels)
    if task == CLASSIFY and len({name.lower() for name in names.values()}) < len(names):
        raise invalid(source, "two labels of the model have the same name for requests: name them under `labels`")
    return task, names
