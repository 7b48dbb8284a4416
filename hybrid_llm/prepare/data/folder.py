"""The data folder: `data.json` describes it, and each split is a file of JSON lines, one record a line.

A record has these keys, by the format of the folder:

- `text`: {"text"}
- `chat`: {"messages": [{"role", "content"}]}
- `labelled`: {"text", "label"}, where the label is one of `labels`
- `tagged`: {"tokens": [...], "tags": [...]}, where each tag is one of `labels`
- `preference`: {"prompt": messages, "chosen": messages, "rejected": messages}
- `blocks`: {"input_ids": [...]}, blocks of token ids of one length
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import parse_json, read_json

DATA_NAME: Final = "data.json"
_VERSION: Final = 1


class DataFormat(StrEnum):
    """What the records of a folder are."""

    TEXT = "text"
    CHAT = "chat"
    LABELLED = "labelled"
    TAGGED = "tagged"
    PREFERENCE = "preference"
    BLOCKS = "blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What `data.json` holds.

    Attributes:
        splits: the name of each split, such as `train`, `validation` and `test`, with its number of records.
        labels: the labels or tags, in the order of their numbers.
        licence: of the data, by its SPDX identifier where it has one.
        sources: each source, with its SHA-256, for the record.
        figures: what was done to the data, each with its numbers.
        tokenizer: the digest of the tokenizer of `blocks`.
    """

    format: DataFormat
    splits: Mapping[str, int]
    labels: tuple[str, ...] = ()
    licence: str = "unknown"
    sources: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = ""

    def to_json(self) -> str:
        """The text of `data.json`."""
        return json.dumps({"version": _VERSION, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """A folder of prepared data."""

    path: Path
    card: DataCard

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Read `data.json` of *path*.

        Raises:
            ConfigError: there is none, or it is not valid.
        """
        file = path / DATA_NAME
        if not file.is_file():
            message = f"{path} is no data folder, it has no {DATA_NAME}: make one by hybrid-llm models prepare-data"
            raise ConfigError(message, path=str(path))
        try:
            return cls(path, _card(read_json(file)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file} cannot be read ({error!r}): prepare the data again", path=str(file)) from error

    def records(self, split: str) -> Iterator[dict[str, Any]]:
        """The records of *split*, one after the other; the file is not read as a whole.

        Raises:
            ConfigError: there is no such split, or a line is broken.
        """
        if split not in self.card.splits:
            known = ", ".join(self.card.splits)
            raise ConfigError(f"{self.path} has no split `{split}`; it has: {known}", path=str(self.path))
        file = self.path / f"{split}.jsonl"
        number = 1
        try:
            with file.open("rb") as lines:
                for line in lines:
                    yield _record(line)
                    number += 1
        except OSError as error:
            what = f"{file} cannot be read: {error.strerror}: prepare the data again"
            raise ConfigError(what, path=str(file)) from error
        except ValueError as error:
            raise ConfigError(f"{file}:{number}: {error}: prepare the data again", path=str(file)) from None


def _record(line: bytes) -> dict[str, Any]:
    record = parse_json(line)
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    return record


def _card(values: dict[str, Any]) -> DataCard:
    if values.pop("version") != _VERSION:
        raise ValueError("the folder is of another version")
    values["format"] = DataFormat(values["format"])
    values["labels"] = tuple(values.get("labels", ()))
    for split in values["splits"]:
        if Path(split).name != split:
            raise ValueError("the name of a split is that of a file")
    return DataCard(**values)
