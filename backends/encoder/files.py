"""The folder of an encoder: `config.json` with `id2label`, `tokenizer.json`, and `model.onnx` or `model.tflite`.

A folder that `hybrid-llm models convert` made has a manifest too, against which every file is checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from hybrid_llm.backends.edge.folder import MANIFEST_NAME, digest_file, read_manifest, verify_manifest
from hybrid_llm.core.errors import ConfigError

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
ONNX: Final = "model.onnx"
LITERT: Final = "model.tflite"
FILES: Final = (CONFIG, TOKENIZER, ONNX)
"""Of an encoder in ONNX."""
OUTSIDE: Final = "O"
"""The label of a token that is part of nothing."""
_PREFIXES: Final = frozenset({"B-", "I-", "E-", "S-", "L-", "U-"})
_MAX_TOKENS: Final = 512


class ModelFiles(NamedTuple):
    """A model, read: from a folder, or from wherever its files are."""

    source: str
    """Where the files are, for messages."""
    config: bytes
    tokenizer: bytes
    model: Path | bytes
    """The file, or what it holds."""

    @classmethod
    def in_folder(cls, folder: Path, graph: str = ONNX) -> ModelFiles:
        """The files of a folder; *graph* is the name of the one with the weights.

        Raises:
            ConfigError: one is missing or cannot be read, or is not what the manifest lists.
        """
        check_complete(folder, graph)
        if (folder / MANIFEST_NAME).is_file():
            verify_manifest(folder)
        config, tokenizer = (_read(folder / name) for name in (CONFIG, TOKENIZER))
        return cls(str(folder), config, tokenizer, folder / graph)


def check_complete(folder: Path, graph: str = ONNX) -> None:
    """Raise ConfigError if a file is missing."""
    names = (CONFIG, TOKENIZER, graph)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        option = " --to litert" if graph == LITERT else ""
        advice = f"a model has {', '.join(names)}: `hybrid-llm models convert{option}` makes them of a checkpoint"
        raise invalid(str(folder), f"it lacks {', '.join(missing)}; {advice}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise invalid(str(path), f"cannot be read: {error.strerror}") from error


def read_config(folder: Path, graph: str = ONNX) -> dict[str, Any]:
    """The `config.json` of *folder*; ConfigError if it or another file is missing, or it is broken."""
    check_complete(folder, graph)
    return parse_config(_read(folder / CONFIG), str(folder))


def parse_config(data: bytes, source: str) -> dict[str, Any]:
    """A `config.json`; ConfigError if it is no JSON object."""
    try:
        config = json.loads(data)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise invalid(source, f"{CONFIG} is not a JSON object")
    return config


def labels_of(config: Mapping[str, Any], source: str) -> list[str]:
    """`id2label` as a list; ConfigError if it is missing or has gaps."""
    table = config.get("id2label")
    labels = [table.get(str(i)) for i in range(len(table))] if isinstance(table, dict) else []
    if not labels or None in labels:
        raise invalid(source, 'id2label of config.json is missing or has gaps; expected {"0": "O", "1": "B-PER", ...}')
    return list(map(str, labels))


def type_of(label: str) -> str:
    """`B-PER` and `I-PER` -> `PER`."""
    return label[2:] if label[:2] in _PREFIXES else label


def positions(config: Mapping[str, Any]) -> int:
    """The tokens that fit; RoBERTa models count their positions from the padding token on, which costs two."""
    given = config.get("max_position_embeddings")
    limit = min(given, _MAX_TOKENS) if isinstance(given, int) and given > 0 else _MAX_TOKENS
    return limit - 2 if "roberta" in str(config.get("model_type", "")) else limit


def fingerprint_of(folder: Path, graph: str = ONNX) -> str | None:
    """What the model's speed depends on: the digests of its files; None if they cannot be read."""
    try:
        if (folder / MANIFEST_NAME).is_file():
            entries = read_manifest(folder).files
        else:
            entries = {name: digest_file(folder / name) for name in (CONFIG, TOKENIZER, graph)}
    except (ConfigError, OSError):
        return None
    return "\n".join(f"{name} {entry.sha256}" for name, entry in sorted(entries.items()))


def revision_of(folder: Path) -> str:
    """What distinguishes the files of a model from those of another one: their sizes and times; no file is read."""
    found = [(path.name, path.stat()) for path in sorted(folder.glob("*")) if path.is_file()]
    return "\n".join(f"{name} {of.st_size} {of.st_mtime_ns}" for name, of in found)


def invalid(source: str, message: str) -> ConfigError:
    """The error about the files at *source*."""
    return ConfigError(f"{source}: {message}", path=source)
