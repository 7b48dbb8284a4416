"""Writing `manifest.json` for a folder that the ONNX Runtime GenAI builder made. Checking it is `edge.manifest`."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hybrid_llm.backends.edge.manifest import MANIFEST_NAME, Manifest, digest_file, verify_manifest
from hybrid_llm.router.errors import ConfigError

__all__ = ["verify_manifest", "write_manifest"]

_TOOLS = ("onnxruntime", "onnxruntime-genai", "onnx", "torch", "transformers", "tokenizers")


def write_manifest(
    folder: Path,
    *,
    name: str,
    architecture: str,
    precision: str,
    parameters: int,
    license: str = "unknown",  # noqa: A002 - the field's own name
    parity: Mapping[str, Any] | None = None,
    created_with: Mapping[str, Any] | None = None,
) -> Manifest:
    """Digest every file of *folder* and write its `manifest.json`; an old one is replaced in one step.

    Raises:
        ConfigError: the folder has no readable `genai_config.json`.
    """
    model = _genai_model(folder)
    manifest = Manifest(
        name=name,
        architecture=architecture,
        precision=precision,
        parameters=parameters,
        context_window=model["context_length"],
        vocab_size=model["vocab_size"],
        license=license,
        created_with={**_versions(), **(created_with or {})},
        parity=dict(parity or {}),
        files={path.name: digest_file(path) for path in _files(folder)},
    )
    partial = folder / f".{MANIFEST_NAME}.partial"
    partial.write_text(manifest.to_json(), encoding="utf-8")
    partial.replace(folder / MANIFEST_NAME)
    return manifest


def _genai_model(folder: Path) -> dict[str, Any]:
    path = folder / "genai_config.json"
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        return {key: model[key] for key in ("context_length", "vocab_size")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read: is this a folder of the builder? ({error!r})", path=str(path)
        ) from error


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name != MANIFEST_NAME and not p.name.startswith("."))


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions
