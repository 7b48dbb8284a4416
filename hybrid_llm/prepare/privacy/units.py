"""The units of privacy of a data folder: single records, or all records of one person, as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import ModelKind

RECORD: Final = "record"
KINDS: Final = {
    DataFormat.LABELLED: ModelKind.CLASSIFIER,
    DataFormat.TEXT: ModelKind.CAUSAL,
    DataFormat.CHAT: ModelKind.CAUSAL,
}
"""The format of data -> what is tuned on it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One record: its tokens, and the number of its label, None for a text that is continued."""

    ids: tuple[int, ...]
    label: int | None = None


Unit = tuple[Example, ...]
"""What one record, or one person, has in the data."""


def kind_of(data: DataFolder) -> ModelKind:
    """What is tuned on *data*.

    Raises:
        ConfigError: its records are no units of privacy, or nothing here is tuned on them.
    """
    if data.card.format is DataFormat.BLOCKS:
        message = (
            f"{data.path} is packed into blocks, in which records are mixed: the protection of one record could not be"
            " stated; give the data before it was packed"
        )
        raise ConfigError(message, path=str(data.path))
    if data.card.format not in KINDS:
        known = ", ".join(KINDS)
        message = f"{data.path} has records of the format {data.card.format}; this needs one of: {known}"
        raise ConfigError(message, path=str(data.path))
    return KINDS[data.card.format]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How records become examples: *most* tokens of each are read; *labels* are those of a classifier."""

    tokenizer: Any
    labels: Sequence[str]
    most: int

    def example(self, record: dict[str, Any]) -> Example:
        """The example of *record*; raises KeyError where it lacks a key, ValueError for an unknown label."""
        if "messages" in record:
            text = self.tokenizer.apply_chat_template(record["messages"], tokenize=False)
            ids = self.tokenizer(text, add_special_tokens=False, truncation=True, max_length=self.most)["input_ids"]
            return Example(tuple(ids))
        ids = self.tokenizer(record["text"], truncation=True, max_length=self.most)["input_ids"]
        return Example(tuple(ids), self.labels.index(record["label"]) if self.labels else None)


def examples(data: DataFolder, split: str, encoding: Encoding, most: int | None = None) -> list[Example]:
    """The examples of *split*, in order, at most the first *most*.

    Raises:
        ConfigError: there is no such split, or a record lacks what its format needs.
    """
    return [example for _, example in islice(_each(data, split, encoding, RECORD), most)]


def units(data: DataFolder, split: str, encoding: Encoding, unit: str, most: int) -> list[Unit]:
    """The units of *split*, in the order of their first records.

    Args:
        data: the folder.
        split: one of its splits.
        encoding: how records become examples.
        unit: `record`, or the key of the records that says whose they are.
        most: of a unit with more examples than this, a choice by hash is used, which does not depend on other units.

    Raises:
        ConfigError: as `examples`; or a record lacks the key *unit*; or there are no records.
    """
    found: dict[str, list[Example]] = {}
    for owner, example in _each(data, split, encoding, unit):
        if len(example.ids) > 1 or example.label is not None:
            found.setdefault(owner, []).append(example)
    if not found:
        raise ConfigError(f"the split `{split}` of {data.path} is empty: prepare the data again", path=str(data.path))
    return [tuple(sorted(each, key=_digest)[:most]) for each in found.values()]


def _each(data: DataFolder, split: str, encoding: Encoding, unit: str) -> Iterator[tuple[str, Example]]:
    for number, record in enumerate(data.records(split), 1):
        try:
            owner = str(number) if unit == RECORD else str(record[unit])
            yield owner, encoding.example(record)
        except (KeyError, ValueError, TypeError) as error:
            what = f"has no key {error}" if isinstance(error, KeyError) else "has a label that data.json does not list"
            message = f"record {number} of the split `{split}` of {data.path} {what}: prepare the data again"
            raise ConfigError(message, path=str(data.path)) from None


def _digest(example: Example) -> bytes:
    return hashlib.sha256(repr(example).encode()).digest()
