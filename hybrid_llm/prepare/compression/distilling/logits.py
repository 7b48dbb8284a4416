"""A teacher's probabilities, computed once and stored: of the likeliest tokens, and of all others together.

Files appear whole, so that a run that was killed goes on with the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replacing
from hybrid_llm.prepare.compression.distilling.vocabulary import Vocabulary
from hybrid_llm.prepare.compression.examples import Example, padded
from hybrid_llm.prepare.step import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOGETHER: Final = 8
"""Examples that the teacher reads at once, whose results make one file."""
_LEAST: Final = -60.0
"""The logarithm of the least probability that is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where the probabilities of examples are.

    Attributes:
        folder: of the files.
        bytes: that they take.
    """

    folder: Path
    bytes: int

    def of(self, number: int) -> tuple[NDArray[Any], ...]:
        """What is stored of the example with that *number*."""
        with np.load(self.folder / _name(number // _TOGETHER)) as file:
            start, row = file["starts"], number % _TOGETHER
            return tuple(file[name][start[row] : start[row + 1]] for name in file.files if name != "starts")


def store_tokens(
    teacher: Any,
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    folder: Path,
    progress: Progress,
    *,
    likeliest: int,
    temperature: float,
) -> Stored:
    """Store, for each position of each example, the *likeliest* tokens as the student numbers them.

    Arrays of an example: `ids`, `logprobs` of float16, both (positions, likeliest), and `tail`, the logarithm of the
    probability of all other tokens, those that the student does not have among them.
    """
    shared = vocabulary.shared
    size = np.uint16 if vocabulary.to_teacher.size <= 1 << 16 else np.uint32
    count = min(likeliest, len(shared))

    def compute(rows: Sequence[Example]) -> dict[str, NDArray[Any]]:
        ids = [vocabulary.to_teacher[list(example.ids)] for example in rows]
        if any((each < 0).any() for each in ids):
            raise ConfigError("the data has tokens that the teacher does not know: use method: sequences")
        logs = _logprobs(teacher, [each.tolist() for each in ids], temperature)
        chosen, best, tail = zip(*(_top(each, shared, count) for each in logs), strict=True)
        numbers = [vocabulary.to_student[each].astype(size) for each in chosen]
        return _joined({"ids": numbers, "logprobs": best, "tail": tail})

    return _store(examples, folder, compute, progress)


def store_labels(
    teacher: Any, examples: Sequence[Example], order: Sequence[int], folder: Path, progress: Progress
) -> Stored:
    """Store the teacher's logits of each text, with its labels in the student's *order*, as `logits` of float32."""

    def compute(rows: Sequence[Example]) -> dict[str, NDArray[Any]]:
        import torch

        ids, mask = padded([example.ids for example in rows])
        with torch.inference_mode():
            logits = teacher(input_ids=ids, attention_mask=mask).logits.float().numpy()
        return _joined({"logits": [row[None, list(order)] for row in logits]})

    return _store(examples, folder, compute, progress)


def _store(examples: Sequence[Example], folder: Path, compute: Any, progress: Progress) -> Stored:
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(examples), _TOGETHER)):
        path = folder / _name(number)
        if not path.is_file():
            with disk_errors(folder, "then run it again: what is stored stays"):
                _write(path, compute(examples[start : start + _TOGETHER]))
        progress("the teacher reads", min(1.0, (start + _TOGETHER) / len(examples)))
    return Stored(folder=folder, bytes=sum(path.stat().st_size for path in folder.glob("*.npz")))


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with replacing(path, sync=True) as file:
        np.savez(file, allow_pickle=False, **arrays)


def _joined(arrays: dict[str, Sequence[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    lengths = [len(each) for each in next(iter(arrays.values()))]
    found = {name: np.concatenate(list(rows)) for name, rows in arrays.items()}
    return {**found, "starts": np.cumsum([0, *lengths])}


def _logprobs(teacher: Any, rows: list[list[int]], temperature: float) -> list[Any]:
    """The logarithms of the probabilities of each row, (tokens, vocabulary)."""
    import torch

    ids, mask = padded(rows)
    with torch.inference_mode():
        logits = teacher(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logs = (logits.float() / temperature).log_softmax(-1)
    return [logs[i, : len(row)] for i, row in enumerate(rows)]


def _top(logs: Any, shared: NDArray[np.int64], count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """The teacher's numbers of the *count* likeliest shared tokens, their logarithms, and that of the rest."""
    import torch

    allowed = torch.from_numpy(shared)
    best, places = logs.index_select(-1, allowed).topk(count, dim=-1)
    tail = torch.log((1 - best.double().exp().sum(-1)).clamp_min(0)).clamp_min(_LEAST)
    return allowed[places].numpy(), best.clamp_min(_LEAST).half().numpy(), tail.half().numpy()


def _name(number: int) -> str:
    return f"{number:06}.npz"
