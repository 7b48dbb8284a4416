"""The step `convert`: a Hugging Face folder or a GGUF file as a model folder of the device, compared with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from hybrid_llm.backends.edge.folder import Manifest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Flag, Text, key
from hybrid_llm.core.files import bytes_of
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.libraries import needs
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work

_SPLITS: Final = ("test", "validation", "train")
_MOST: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Convert:
    """Converts a generator or an encoder for the device, and compares its outputs with those of the original."""

    makes: ClassVar[Makes] = Makes.MODEL

    model: Input = key(MODEL, "A Hugging Face folder, or a GGUF file, whose weights stay as they are.")
    to: str = key(
        Choice.of("onnx", "litert"), "The runtime that the model is for; encoders can be `litert`.", default="onnx"
    )
    data: Input | None = key(
        DATA,
        "Texts of an encoder's task, on which it is compared with the original; default: a built-in text.",
        default=None,
    )
    precision: str = key(
        Choice.of("int4", "int8", "fp32"),
        "Of the weights of a Hugging Face folder; default: int4, of encoders int8.",
        default="",
    )
    name: str = key(Text(), "The model's name in its manifest; default: that of the step.", default="")
    licence: str = key(Text("an SPDX identifier"), "Licence of the weights, for the manifest.", default="unknown")
    hidden_states: bool = key(Flag(), "Whether the model gives its last hidden states too.", default=False)
    chat_template: str = key(Text("chatml, gemma, or a template"), "For a GGUF file that has none.", default="")

    def run(self, work: Work) -> Outcome:
        """Convert in the scratch folder, since the converters make a folder of their own.

        Raises:
            ConfigError: the model is of a kind that is not supported, or the result differs from it.
        """
        source, made = work.path(self.model), work.scratch / "made"
        shutil.rmtree(made, ignore_errors=True)
        manifest = self._convert(source, made, work)
        for file in made.iterdir():
            file.replace(work.out / file.name)
        metrics = {**dict(_perplexity(manifest, "after")), "size_mb": manifest.total_bytes / 1e6}
        before = {**dict(_perplexity(manifest, "before")), "size_mb": bytes_of(source) / 1e6}
        card = {"parameters": manifest.parameters, "parity": dict(manifest.parity)}
        return Outcome(metrics=metrics, before=before, card=card)

    def _convert(self, source: Path, made: Path, work: Work) -> Manifest:
        if source.is_file():
            return self._import(source, made, work)
        with needs("prepare"):
            from hybrid_llm.backends.models import encoders
            from hybrid_llm.backends.models.convert import Precision, convert
        name = self.name or work.name
        if encoders.is_encoder(source):
            return encoders.convert_encoder(
                source,
                made,
                cast("encoders.Precision", self.precision or "int8"),
                to=cast("encoders.Runtime", self.to),
                name=name,
                texts=sample_texts(work.path(self.data)) if self.data else (),
                license=self.licence,
                progress=work.progress,
            )
        encoders.require_onnx(self.to, source)
        precision = cast("Precision", self.precision or "int4")
        options: Mapping[str, Any] = {"name": name, "license": self.licence, "hidden_states": self.hidden_states}
        return convert(source, made, precision, progress=work.progress, **options)

    def _import(self, source: Path, made: Path, work: Work) -> Manifest:
        from hybrid_llm.backends.models.encoders import require_onnx
        from hybrid_llm.backends.models.gguf import import_gguf

        require_onnx(self.to, source)
        if self.precision:
            message = "`precision` is for Hugging Face folders: the weights of a GGUF file stay as they are"
            raise ConfigError(message, path=str(source))
        return import_gguf(
            source,
            made,
            name=self.name or work.name,
            license=self.licence,
            report=work.progress,
            chat_template=self.chat_template or None,
            hidden_states=self.hidden_states,
        )


def _perplexity(manifest: Manifest, when: str) -> Iterator[tuple[str, float]]:
    value = manifest.parity.get(f"perplexity_{when}")
    if isinstance(value, int | float):
        yield "perplexity", float(value)


def sample_texts(path: Path) -> list[str]:
    """The texts of *path*: of the split `test`, else `validation`, else the first, up to 4,096 records.

    Raises:
        ConfigError: it cannot be read, or has no texts.
    """
    texts = list(islice(filter(str.strip, _records(path) if path.is_dir() else _lines(path)), _MOST))
    if not texts:
        raise ConfigError(f"{path} has no texts: give labelled texts, texts, or words with tags", path=str(path))
    return texts


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            yield from lines
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read ({type(error).__name__}): give a data folder, or a file of texts in UTF-8"
        raise ConfigError(message, path=str(path)) from error


def _records(path: Path) -> Iterator[str]:
    folder = DataFolder.open(path)
    split = next((name for name in _SPLITS if folder.card.splits.get(name)), "")
    for record in folder.records(split or next(iter(folder.card.splits), "")):
        yield _text(record)


def _text(record: dict[str, Any]) -> str:
    return str(record["text"]) if "text" in record else " ".join(map(str, record.get("tokens", ())))
