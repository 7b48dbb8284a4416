"""The steps `quantise` and `fuse`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final

from hybrid_llm.backends.models.convert import Precision, Recode, convert
from hybrid_llm.backends.models.encoder_onnx import quantise_dynamic
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Flag, Whole, key, percentage
from hybrid_llm.prepare.compression.comparison import evaluation_split, figures, texts_of
from hybrid_llm.prepare.compression.examples import TRAIN, blocks, padded
from hybrid_llm.prepare.compression.folders import kind_of
from hybrid_llm.prepare.compression.quantising.encoders import fuse, quantise_static
from hybrid_llm.prepare.compression.quantising.graphs import (
    GRAPH,
    GraphParity,
    plain_graph,
    prove,
    rows_of,
    write_folder,
)
from hybrid_llm.prepare.compression.quantising.recode import recode
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work

_OF_DECODERS: Final = ("int4", "int8", "gptq")
_BLOCK, _TOGETHER = 128, 4
"""Tokens of a text that GPTQ calibrates on, and texts that it reads at once."""
_OF_ENCODERS: Final = ("dynamic", "static")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantise:
    """Store a model in 8 or 4 bits, as a folder of the device.

    For a classifier: `dynamic` stores the weights in 8 bits for each channel, `static` the activations too, with ranges
    found on calibration data. For a generator: `int4` by k-quant in blocks of 32, `gptq` the same with codes found on
    calibration data where they are better, or `int8`.
    """

    makes: ClassVar[Makes] = Makes.MODEL

    model: Input = key(MODEL, "A Hugging Face folder, or the folder of an encoder in float32.")
    data: Input | None = key(DATA, "Texts to calibrate on (`train`) and to evaluate on (`test`).", default=None)
    method: str = key(
        Choice.of("default", *_OF_ENCODERS, *_OF_DECODERS),
        "How; by default `dynamic` for a classifier and `int4` for a generator.",
        default="default",
    )
    fuse: bool = key(Flag(), "Whether the operators of a classifier are fused first, for `dynamic`.", default=True)
    samples: int = key(Whole(1), "Texts that `static` calibrates on, blocks of 128 tokens for `gptq`.", default=128)
    least_agreement: float = key(
        percentage(), "Share of the texts that must keep the label they had in float32.", default=0.95
    )
    evaluate_on: int = key(Whole(1), "Most records that the figures before and after are measured on.", default=200)

    def run(self, work: Work) -> Outcome:
        """Quantise, compare and measure."""
        source = work.path(self.model)
        generates = kind_of(source).generates
        method = {"default": "int4" if generates else "dynamic"}.get(self.method, self.method)
        if (method in _OF_DECODERS) is not generates:
            fits = " or ".join(_OF_DECODERS if generates else _OF_ENCODERS)
            raise ConfigError(f"method: {method} does not fit {source}, a {kind_of(source)}: use {fits}")
        return self._decoder(work, source, method) if generates else self._encoder(work, source, method)

    def _decoder(self, work: Work, source: Path, method: str) -> Outcome:
        folder = work.scratch / "made"
        shutil.rmtree(folder, ignore_errors=True)
        precision: Precision = "int8" if method == "int8" else "int4"
        recode = self._recode(work, source, method)
        convert(source, folder, precision, name=work.name, recode=recode, progress=work.progress)
        for file in folder.iterdir():
            file.replace(work.out / file.name)
        data = None if self.data is None else work.path(self.data)
        return Outcome(
            metrics=figures(work.out, data, self.evaluate_on),
            before=figures(source, data, self.evaluate_on),
            card={"training": {"quantised": method}},
        )

    def _recode(self, work: Work, source: Path, method: str) -> Recode | None:
        if method != "gptq":
            return None
        if self.data is None:
            raise ConfigError("data is missing: method: gptq calibrates on the texts of its split `train`")
        rows = [each.ids for each in blocks(work.path(self.data), source, _BLOCK, self.samples)]
        batches = [padded(rows[i : i + _TOGETHER]) for i in range(0, len(rows), _TOGETHER)]
        return partial(recode, source=source, batches=batches)

    def _encoder(self, work: Work, source: Path, method: str) -> Outcome:
        plain = plain_graph(source, work.scratch, work.progress)
        dynamic = _fuse_and_quantise if self.fuse else quantise_dynamic
        apply = dynamic if method == "dynamic" else self._static(work, plain)
        change = _Change(name=method, precision="int8", apply=apply, least=self.least_agreement)
        return _changed(work, plain, change, self.data, self.evaluate_on)

    def _static(self, work: Work, plain: Path) -> Callable[[Path, Path], None]:
        if self.data is None:
            raise ConfigError("data is missing: method: static calibrates on the texts of its split `train`")
        data = DataFolder.open(work.path(self.data))
        texts = list(texts_of(data, list(islice(data.records(TRAIN), self.samples))))
        if not texts:
            raise ConfigError(f"the split `{TRAIN}` of {data.path} is empty: there is nothing to calibrate on")
        return partial(quantise_static, rows=rows_of(plain, texts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuse:
    """Join the operators of a classifier's graph, which computes the same in less time."""

    makes: ClassVar[Makes] = Makes.MODEL

    model: Input = key(MODEL, "A Hugging Face folder of a classifier, or the folder of an encoder in float32.")
    data: Input | None = key(DATA, "Labelled texts to evaluate on.", default=None)
    evaluate_on: int = key(Whole(1), "Most records that the figures before and after are measured on.", default=200)

    def run(self, work: Work) -> Outcome:
        """Fuse, compare and measure."""
        plain = plain_graph(work.path(self.model), work.scratch, work.progress)
        change = _Change(name="fused", precision="fp32", apply=fuse, least=1.0)
        return _changed(work, plain, change, self.data, self.evaluate_on)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What happens to a graph, and how many texts must keep their label."""

    name: str
    precision: str
    apply: Callable[[Path, Path], None]
    least: float


def _fuse_and_quantise(graph: Path, out: Path) -> None:
    fused = out.with_name(".fused.onnx")
    fuse(graph, fused)
    quantise_dynamic(fused, out)
    fused.unlink()


def _changed(work: Work, plain: Path, change: _Change, given: Input | None, limit: int) -> Outcome:
    """Change the graph of *plain*, prove and measure it."""
    work.progress("changing the graph", 0.3)
    write_folder(plain, work.out, work.name, change.precision, change.apply)
    data = None if given is None else work.path(given)
    work.progress("comparing", 0.6)
    parity = prove(plain, work.out, change.precision, _texts(data, limit))
    parity.require(change.least)
    work.progress("measuring before and after", 0.7)
    return Outcome(
        metrics={**figures(work.out, data, limit), **_as_metrics(parity), "graph_mb": _megabytes(work.out)},
        before={**figures(plain, data, limit), "graph_mb": _megabytes(plain)},
        card={"training": {"changed": change.name}},
    )


def _texts(data: Path | None, limit: int) -> list[str]:
    if data is None:
        return []
    opened = DataFolder.open(data)
    return list(texts_of(opened, list(islice(opened.records(evaluation_split(opened)), limit))))


def _as_metrics(parity: GraphParity) -> dict[str, float]:
    return {"agreement": round(parity.agreement, 5), "mean_shift": round(parity.mean_shift, 6)}


def _megabytes(folder: Path) -> float:
    return round((folder / GRAPH).stat().st_size / 1e6, 3)
