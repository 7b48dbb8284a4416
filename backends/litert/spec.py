"""What `kind: litert` in `hybrid.yaml` holds: the keys of an encoder, with the weights in `model.tflite`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hybrid_llm.backends.edge.store import stored_models
from hybrid_llm.backends.encoder.files import LITERT, ModelFiles
from hybrid_llm.backends.encoder.spec import EncoderConfig
from hybrid_llm.core.fields import File, key

if TYPE_CHECKING:
    from hybrid_llm.backends.encoder.model import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteRTConfig(EncoderConfig):
    """An encoder in LiteRT: the same tasks and answers as `encoder`, in the runtime of phones."""

    kind: ClassVar[str] = "litert"
    graph: ClassVar[str] = LITERT

    name: str = "litert"
    model: Path = key(
        File(
            "the name of a model of the store, or the path of a model folder",
            names=stored_models,
            remedy="(`hybrid-llm models pull NAME --registry URL` gets a model; a path has a slash)",
        ),
        "The folder with `model.tflite`, `tokenizer.json` and `config.json`, or the name that it was pulled under.",
    )

    def open_encoder(self) -> Encoder:
        """Load the model; ConfigError if its files are unusable, or LiteRT is not installed."""
        from hybrid_llm.backends.encoder.model import Encoder
        from hybrid_llm.backends.litert.graph import LiteRTGraph

        return Encoder(ModelFiles.in_folder(self.model, LITERT), threads=self.threads, open_graph=LiteRTGraph)
