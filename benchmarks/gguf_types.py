"""What the import of a GGUF costs in quality: perplexity of a file, and of the model that is made of it, by type.

    python -m benchmarks gguf_types                     every type, 3,072 tokens, some minutes
    python -m benchmarks gguf_types --types Q4_0 Q4_K   only these
    python -m benchmarks gguf_types --tokens 1024       fewer tokens

SmolLM2-135M-Instruct (Q4_1, from the package index) is quantised again to each type; a row whose length the type's
blocks do not divide is in Q8_0. The file is computed by NumPy in float32, the imported model by onnxruntime as it runs
in use. *sure to* is two standard errors of the difference: the part of it that comes from the choice of the text.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks._run import ROOT, announce, parser
from hybrid_llm.backends.edge.runtime import open_session
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.blocks import Floats
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.reference import reference_logits
from hybrid_llm.backends.models.gguf.shape import read_shape
from hybrid_llm.backends.models.perplexity import TEXT, log_probabilities
from hybrid_llm.backends.text import ChatTokenizer
from tests.ggufs import BLOCKS, requantised, small_llama
from tests.weights import Unreachable, smollm2_gguf

WINDOW = 512
"""Tokens that are read at once."""
AS_IT_IS = "Q4_1, the file"


@dataclass
class Tally:
    """Per token, the log-probability before and after, and the divergence, in nats."""

    before: list[float]
    after: list[float]
    divergence: list[float]

    def add(self, ids: list[int], theirs: Floats, ours: Floats) -> None:
        left, right = log_probabilities(theirs), log_probabilities(ours)
        at = np.arange(len(ids) - 1), np.asarray(ids[1:])
        self.before += left[at].tolist()
        self.after += right[at].tolist()
        self.divergence += (np.exp(left) * (left - right)).sum(axis=1).tolist()

    def row(self) -> str:
        before, after = np.array(self.before), np.array(self.after)
        change = (np.exp((before - after).mean()) - 1) * 100
        sure = 200 * (before - after).std() / np.sqrt(len(before))
        perplexities = f"{np.exp(-before.mean()):.3f} | {np.exp(-after.mean()):.3f}"
        return f"{perplexities} | {change:+.2f} % | {sure:.2f} % | {np.mean(self.divergence):.4f}"


def text() -> str:
    """English prose, short reviews, Markdown and Python code."""
    with zipfile.ZipFile(ROOT / "examples" / "models" / "data" / "sentence_polarity.zip") as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pos"))
        reviews = archive.read(name).decode("latin-1").splitlines()[:40]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")[:4000]
    code = (ROOT / "router" / "client.py").read_text(encoding="utf-8")[:4000]
    return "\n\n".join([TEXT, *reviews, readme, code])


def windows(folder: Path, tokens: int) -> list[list[int]]:
    ids = ChatTokenizer.load(folder).tokenizer.encode(text(), add_special_tokens=False).ids[:tokens]
    return [ids[start : start + WINDOW] for start in range(0, len(ids) - 1, WINDOW)]


def of_the_file(path: Path, parts: list[list[int]]) -> Iterator[Floats]:
    with Gguf(path) as file:
        shape = read_shape(file)
        for ids in parts:
            yield reference_logits(file, shape, [(ids[:-1], 0)])[0]


def as_it_runs(folder: Path, parts: list[list[int]]) -> Iterator[Floats]:
    session = open_session(folder / "model.onnx", threads=1, spin=False)
    pasts = [tensor for tensor in session.get_inputs() if tensor.name.startswith("past_key_values")]
    empty = {t.name: np.zeros((1, t.shape[1], 0, t.shape[3]), dtype=np.float32) for t in pasts}
    for ids in parts:
        rows = np.array([ids[:-1]], dtype=np.int64)
        (logits,) = session.run(["logits"], {"input_ids": rows, "attention_mask": np.ones_like(rows), **empty})
        yield logits[0]


def measure(source: Path, kind: str, tokens: int) -> str:
    with tempfile.TemporaryDirectory(prefix="hybrid-llm-types-") as scratch:
        path = source if kind == AS_IT_IS else requantised(source, Path(scratch) / "model.gguf", kind)
        folder = Path(scratch) / "out"
        manifest = import_gguf(path, folder, name="smollm2", all_logits=True)
        parts, tally = windows(folder, tokens), Tally([], [], [])
        for ids, theirs, ours in zip(parts, of_the_file(path, parts), as_it_runs(folder, parts), strict=True):
            tally.add(ids, theirs, ours)
        sizes = f"{path.stat().st_size / 1e6:.0f} | {manifest.total_bytes / 1e6:.0f}"
    return f"| {kind} | {sizes} | {tally.row()} |"


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--types", nargs="+", default=[AS_IT_IS, *sorted(BLOCKS.keys() - {"F32"})])
    made.add_argument("--tokens", type=int, default=3072)
    return made.parse_args()


def main() -> None:
    chosen = options()
    announce(chosen)
    if chosen.smoke:
        with tempfile.TemporaryDirectory(prefix="hybrid-llm-types-") as scratch:
            table(small_llama(Path(scratch) / "small.gguf"), ["Q8_0"], 64)
        return
    try:
        table(smollm2_gguf(), chosen.types, chosen.tokens)
    except Unreachable as error:
        print(f"skipped: {error}")


def table(source: Path, kinds: list[str], tokens: int) -> None:
    print("| type | file, MB | folder, MB | of the file | imported | change | sure to | divergence, nats |")
    print("|---|---|---|---|---|---|---|---|")
    for kind in kinds:
        print(measure(source, kind, tokens), flush=True)


if __name__ == "__main__":
    main()
