"""What models are trained and measured on: rows of token ids from a data folder."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.comparison import texts_of
from hybrid_llm.prepare.compression.folders import open_tokenizer
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat

TRAIN: Final = "train"
_IGNORED: Final = -100
"""A position that has no target, by torch's convention."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of token ids, with its class where it has one.

    Attributes:
        start: of the ids, those before it are given and not learnt.
    """

    ids: tuple[int, ...]
    label: int = _IGNORED
    start: int = 0


def blocks(folder: Path, model: Path, length: int, limit: int) -> list[Example]:
    """At most *limit* blocks of *length* tokens of the split `train` of the data in *folder*, for a generator.

    Texts follow each other, with the end of text between them; the rest behind the last whole block is left out, unless
    there is no whole one.

    Raises:
        ConfigError: there is nothing to read, or the data is packed for another tokenizer.
    """
    data = DataFolder.open(folder)
    packed = data.card.format is DataFormat.BLOCKS
    if packed and data.card.tokenizer != sha256((model / "tokenizer.json").read_bytes()).hexdigest():
        raise ConfigError(
            f"{folder} is packed for another tokenizer than that of {model}: pack it again", path=str(folder)
        )
    found = list(islice(_packed(data, length) if packed else _cut(_stream(data, model), length), limit))
    if not found:
        raise ConfigError(f"the split `{TRAIN}` of {folder} has no text: prepare more data", path=str(folder))
    return found


def labelled(folder: Path, model: Path, labels: Sequence[str], length: int, limit: int) -> list[Example]:
    """At most *limit* texts of the split `train` as rows of at most *length* tokens, for a classifier with *labels*.

    Texts without a label are taken where the folder holds plain texts.

    Raises:
        ConfigError: there is nothing to read, or the data has labels that the model does not know.
    """
    data = DataFolder.open(folder)
    if unknown := set(data.card.labels) - set(labels):
        message = f"{folder} has {len(unknown)} labels that the model does not know; it knows {', '.join(labels)}"
        raise ConfigError(message, path=str(folder))
    tokenizer = open_tokenizer(model)
    tokenizer.enable_truncation(length)
    records = list(islice(data.records(TRAIN), limit))
    found = [
        Example(tuple(tokenizer.encode(text).ids), labels.index(record["label"]) if "label" in record else _IGNORED)
        for text, record in zip(texts_of(data, records), records, strict=True)
    ]
    if not found:
        raise ConfigError(f"the split `{TRAIN}` of {folder} is empty: prepare more data", path=str(folder))
    return found


def drawn(examples: Sequence[Example], count: int, step: int, seed: int) -> list[int]:
    """The numbers of the *count* examples of *step*: every example once before any comes again."""
    chosen = []
    for at in range(step * count, (step + 1) * count):
        turn, index = divmod(at, len(examples))
        chosen.append(_order(len(examples), turn, seed)[index])
    return chosen


def padded(rows: Sequence[Sequence[int]], fill: int = 0) -> tuple[Any, Any]:
    """*rows* as one tensor of ids, filled up with *fill*, and the mask of those that were there."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), fill)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


@lru_cache(maxsize=2)
def _order(count: int, turn: int, seed: int) -> list[int]:
    return random.Random(f"{seed}/{turn}").sample(range(count), count)  # noqa: S311 - no secret


def _packed(data: DataFolder, length: int) -> Iterator[Example]:
    for record in data.records(TRAIN):
        yield Example(tuple(record["input_ids"][:length]))


def _stream(data: DataFolder, model: Path) -> Iterator[list[int]]:
    tokenizer, end = open_tokenizer(model), _end_of(model)
    for record in data.records(TRAIN):
        for text in texts_of(data, [record]):
            yield [*tokenizer.encode(text, add_special_tokens=False).ids, *end]


def _end_of(model: Path) -> list[int]:
    from hybrid_llm.prepare.hub_folder import HubFolder

    end = HubFolder.open(model).config.get("eos_token_id")
    return [end] if isinstance(end, int) else list(end or [])[:1]


def _cut(pieces: Iterator[list[int]], length: int) -> Iterator[Example]:
    held: list[int] = []
    whole = False
    for piece in pieces:
        held += piece
        while len(held) >= length:
            yield Example(tuple(held[:length]))
            held, whole = held[length:], True
    if not whole and len(held) > 1:
        yield Example(tuple(held))
