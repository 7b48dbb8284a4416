"""Reads the records of a task: JSON lines, CSV with a header, or a split of a data folder."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import parse_json
from hybrid_llm.prepare.data.folder import DATA_NAME, DataFolder


def read_records(path: Path, split: str, limit: int) -> list[dict[str, Any]]:
    """The first *limit* records at *path*, all if it is 0.

    Raises:
        ConfigError: it cannot be read, a line is broken, or there is no record. No text of it is quoted.
    """
    found = list(islice(_records(path, split), limit or None))
    if not found:
        raise ConfigError(f"{path} has no record: an evaluation needs at least one", path=str(path))
    return found


def _records(path: Path, split: str) -> Iterator[dict[str, Any]]:
    if path.is_dir() or path.name == DATA_NAME:
        folder = DataFolder.open(path if path.is_dir() else path.parent)
        return folder.records(split or _last_split(folder))
    if split:
        raise ConfigError(f"{path} is a file: only a data folder has splits", path=str(path))
    if path.suffix.lower() in (".csv", ".tsv"):
        return _csv(path)
    return _lines(path)


def _last_split(folder: DataFolder) -> str:
    """`test` where there is one, else `validation`; never what a model was trained on."""
    for name in ("test", "validation"):
        if name in folder.card.splits:
            return name
    raise ConfigError(f"{folder.path} has no split `test` or `validation`: name one under `split`")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    yield _record(parse_json(line))
    except (ValueError, RecursionError) as error:
        what = f"{path}:{number} is no JSON object ({type(error).__name__}): mend the line or remove it"
        raise ConfigError(what, path=str(path)) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


def _record(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
            for record in reader:
                if None in record or None in record.values():
                    what = f"{path}:{reader.line_num} has not as many columns as the header: mend the line"
                    raise ConfigError(what, path=str(path))
                yield dict(record)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no CSV ({type(error).__name__}): mend it", path=str(path)) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None
