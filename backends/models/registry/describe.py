"""Reads a folder that is to be published: its files with their pieces, and what its own files say of the model."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.models.registry.records import PIECE, About, FileRecord, VersionManifest, check_file, digest_of
from hybrid_llm.backends.models.sources.source import Report, Reporter
from hybrid_llm.backends.signing.statement import SIGNATURE
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

CARD: Final = "card.json"
_DATA: Final = "data.json"
"""What a recipe writes of a model: licence, lineage, evaluations, and whether it may be published."""
_WEIGHTS: Final = (".safetensors", ".onnx", ".gguf", ".tflite", ".bin", ".pt")
"""How the names of files with weights end; a folder without one is no model."""
RECORD: Final = "step.json"
"""What a step of a recipe writes of its result, with its metrics."""
_TASKS: Final = {
    "ForCausalLM": "generate",
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "extract",
    "ForMaskedLM": "fill-mask",
}


def describe(folder: Path, name: str, report: Report) -> VersionManifest:
    """The manifest of *folder* as a version of the model *name*; every file is read once.

    Raises:
        ConfigError: it holds no model, a link, or a file that another system could not have.
    """
    paths = require_model(folder)
    about = _about(folder, paths)
    progress = Reporter(report, "hashing", sum(path.stat().st_size for path in paths.values()))
    files = {relative: read_file(path, progress.add) for relative, path in paths.items()}
    return VersionManifest(name=name, files=files, about=about)


def require_model(folder: Path) -> dict[str, Path]:
    """The files of the model in *folder*, see `model_files`.

    Raises:
        ConfigError: it holds none, or data.
    """
    paths = dict(model_files(folder))
    if any(path.endswith(_WEIGHTS) for path in paths):
        return paths
    what = "holds data, which is not published with models" if _DATA in paths else "holds no model"
    text = f"{folder} {what}: none of its files ends with {', '.join(_WEIGHTS)}; name the folder of a model"
    raise ConfigError(text, path=str(folder))


def model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Relative path and path of each file of a model, its signature left out; errors as those of `describe`."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: name the folder of a model", path=str(folder))
    found = False
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ConfigError(f"{path} is a link: put the file itself into the folder", path=str(path))
        if path.is_file() and relative != SIGNATURE:
            try:
                yield check_file(relative), path
            except ValueError as error:
                raise ConfigError(f"{path}: {error}: rename the file", path=str(path)) from None
            found = True
    if not found:
        raise ConfigError(f"{folder} is empty: name the folder of a model", path=str(folder))


def read_file(path: Path, add: Callable[[int], None] = lambda count: None) -> FileRecord:  # noqa: ARG005
    """The record of a file, read piece by piece; *add* is called with the bytes of each."""
    whole, pieces, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            whole.update(piece)
            pieces.append(digest_of(piece))
            size += len(piece)
            add(len(piece))
    return FileRecord(sha256=whole.hexdigest(), bytes=size, pieces=tuple(pieces))


def _about(folder: Path, paths: Mapping[str, Path]) -> About:
    """What the files say: the card and the record of a recipe, the manifest of the device, and the configuration.

    Raises:
        ConfigError: it holds no model, or the recipe says that the model may not be published.
    """
    card, step = _json(folder / CARD), _json(folder / RECORD)
    _require_publishable(folder, card, step)
    if _DATA in paths and not paths.keys() & {"manifest.json", "config.json", "adapter_config.json"}:
        message = f"{folder} holds data, which is not published with models: name the folder of a model"
        raise ConfigError(message, path=str(folder))
    device, config, adapter = (_json(folder / name) for name in ("manifest.json", "config.json", "adapter_config.json"))
    return About(
        kind=_kind(paths),
        task=_task(config),
        licence=str(card.get("licence") or device.get("license") or "unknown"),
        parameters=int(device.get("parameters") or 0),
        metrics=dict(_metrics([step.get("metrics"), *_mapping(card, "evaluations").values()])),
        lineage=dict(_lineage(card, adapter)),
    )


def _require_publishable(folder: Path, card: Mapping[str, Any], step: Mapping[str, Any]) -> None:
    refusals = [*card.get("refusals", ()), *(one.get("metric", one) for one in step.get("breaches", ()))]
    if card.get("publishable") is False or refusals:
        why = "; ".join(map(str, refusals)) or "its card says so"
        raise ConfigError(f"{folder} may not be published: {why}: improve the model, or change its recipe")
    if step and not card:
        text = f"{folder} has a record and no {CARD}, which says whether it may be published: run its recipe again"
        raise ConfigError(text, path=str(folder))


def _metrics(found: Iterable[object]) -> Iterator[tuple[str, float]]:
    for metrics in found:
        for name, value in metrics.items() if isinstance(metrics, dict) else ():
            if isinstance(value, int | float) and math.isfinite(value):
                yield str(name), float(value)


def _lineage(card: Mapping[str, Any], adapter: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each step of the recipe with the digest of its result, and the inputs from outside with theirs."""
    if base := adapter.get("base_model_name_or_path"):
        yield "base", str(base)
    for entry in card.get("lineage", ()):
        for name, digest in _mapping(entry, "inputs").items():
            yield str(name), str(digest)
        yield str(entry.get("step", "")), str(entry.get("digest", ""))


def _kind(paths: Mapping[str, Path]) -> str:
    if "genai_config.json" in paths:
        return "onnx"
    if "model.onnx" in paths:
        return "encoder"
    if "model.tflite" in paths:
        return "litert"
    if "adapter_config.json" in paths:
        return "adapter"
    return "huggingface" if "config.json" in paths else "folder"


def _task(config: Mapping[str, Any]) -> str:
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    return next((task for end, task in _TASKS.items() if architecture.endswith(end)), "")


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a file; empty if there is none.

    Raises:
        ConfigError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): mend the folder before it is published") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is not a JSON object: mend the folder before it is published", path=str(path))
    return data
