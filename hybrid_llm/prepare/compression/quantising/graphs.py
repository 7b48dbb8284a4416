"""Encoders as ONNX graphs: the plain one to begin with, and the folder that a changed one is written into."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, read_manifest
from hybrid_llm.backends.encoder.files import FILES, ModelFiles, positions
from hybrid_llm.backends.encoder.model import Encoder, log_shares
from hybrid_llm.backends.models.encoders import convert_encoder
from hybrid_llm.backends.models.manifests import write_manifest
from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.compression.folders import Kind, kind_of
from hybrid_llm.prepare.step import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

GRAPH: Final = FILES[2]
_TIE: Final = 0.02
"""Probabilities nearer to each other than this are a tie."""
_CONVERTED: Final = 0.3
"""Share of the work that is done with the graph in float32."""
_LIBRARIES: Final = ("onnxruntime", "onnx", "torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphParity:
    """How a changed graph agrees with the one it was made from, on *texts* texts.

    Attributes:
        agreement: share of the texts with the same likeliest label, but for ties.
        mean_shift: mean difference of the probability of a label.
    """

    texts: int
    agreement: float
    mean_shift: float
    reference: str = "ONNX Runtime, float32"

    def require(self, least: float) -> None:
        """Check that *least* of the texts keep their label.

        Raises:
            ConfigError: they do not.
        """
        if self.agreement < least:
            found = f"{self.agreement:.1%} of {self.texts} texts keep their label, {least:.0%} are asked for"
            raise ConfigError(f"the result differs from the original: {found}. Use method: dynamic, or least_agreement")


def plain_graph(source: Path, scratch: Path, progress: Progress = lambda what, share: None) -> Path:  # noqa: ARG005
    """The folder of the encoder in float32: *source* itself, or a conversion of it in *scratch*, which takes a while.

    Raises:
        ConfigError: it is no encoder, or its weights are in 8 bits already.
    """
    match kind_of(source):
        case Kind.CLASSIFIER:
            out = scratch / "plain"
            if not out.exists():

                def report(what: str, share: float) -> None:
                    progress(f"converting to float32: {what}", _CONVERTED * share)

                convert_encoder(source, out, "fp32", progress=report)
            return out
        case Kind.DEVICE_ENCODER:
            _require_plain(source)
            return source
    message = f"{source} is no encoder: fusion, and dynamic and static quantisation, are for classifiers of texts"
    raise ConfigError(message, path=str(source))


def _require_plain(folder: Path) -> None:
    if (folder / MANIFEST_NAME).is_file() and (precision := read_manifest(folder).precision) != "fp32":
        message = f"{folder} is stored as {precision} already: name the folder that it was made from"
        raise ConfigError(message, path=str(folder))


def write_folder(plain: Path, out: Path, name: str, precision: str, change: Callable[[Path, Path], None]) -> None:
    """Write the encoder of *plain* to *out*, as the model *name*, with its graph as *change* makes it of a path."""
    change(plain / GRAPH, out / GRAPH)
    for path in plain.iterdir():
        if path.is_file() and path.name not in {GRAPH, MANIFEST_NAME} and not path.name.startswith("."):
            shutil.copyfile(path, out / path.name)
    _describe(plain, out, name, precision, None)


def prove(plain: Path, out: Path, precision: str, texts: Sequence[str]) -> GraphParity:
    """Compare the encoder of *out* with that of *plain* on *texts*, and add it to the manifest of *out*."""
    parity = compare(plain, out, texts)
    _describe(plain, out, read_manifest(out).name, precision, parity)
    return parity


def _describe(plain: Path, out: Path, name: str, precision: str, parity: GraphParity | None) -> None:
    settings = read_json(plain / FILES[0])
    known = read_manifest(plain) if (plain / MANIFEST_NAME).is_file() else None
    write_manifest(
        out,
        name=name,
        architecture=str((settings.get("architectures") or ["unknown"])[0]),
        precision=precision,
        parameters=known.parameters if known else 0,
        license=known.license if known else "unknown",
        parity=asdict(parity) if parity else {},
        libraries=_LIBRARIES,
        sizes={"context_length": positions(settings), "vocab_size": int(settings.get("vocab_size", 0))},
    )


def compare(plain: Path, changed: Path, texts: Sequence[str]) -> GraphParity:
    """How the encoders of both folders agree on *texts*; without any, on the clauses of a text of ours."""
    given = [text for text in texts if text.strip()] or list(clauses())
    before, after = (np.concatenate(list(_shares(folder, given))) for folder in (plain, changed))
    first = before.argmax(-1)[:, None]
    same = after.max(-1) - np.take_along_axis(after, first, -1)[:, 0] <= _TIE
    return GraphParity(texts=len(given), agreement=float(same.mean()), mean_shift=float(np.abs(after - before).mean()))


def clauses() -> Iterator[str]:
    """Pieces of a text in the public domain."""
    return filter(str.strip, re.split(r"[.,;:]\s", TEXT))


def rows_of(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, as the encoder of *folder* reads them."""
    encoder = Encoder(ModelFiles.in_folder(folder))
    return [list(encoder.windows(text)[0].ids) for text in texts]


def _shares(folder: Path, texts: Sequence[str]) -> Iterator[NDArray[Any]]:
    encoder = Encoder(ModelFiles.in_folder(folder))
    for text in texts:
        logits = encoder.run([encoder.windows(text)[0].ids])
        yield np.exp(log_shares(logits)).reshape(-1, logits.shape[-1])
