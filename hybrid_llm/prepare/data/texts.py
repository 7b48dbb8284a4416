"""Some texts of a data folder, or of a file with a text in each line, for comparisons that need no labels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFolder

_SPLITS: Final = ("test", "validation", "train")
_MOST: Final = 4096


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
