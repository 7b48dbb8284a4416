"""Looks at the files of a model folder before anything heavy is imported: is it whole, and does it hold safetensors?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hybrid_llm.router.errors import ConfigError

__all__ = ["check_folder", "read_json"]


def check_folder(folder: Path) -> None:
    """Look at the files of *folder* before anything is loaded.

    Raises:
        ConfigError: no folder, no readable config.json, no safetensors, or one of them is cut off.
    """
    if not folder.is_dir():
        raise ConfigError(f"no model folder at {folder}: give the folder that holds config.json", path=str(folder))
    read_json(folder / "config.json", "download the model again, or save it with save_pretrained()")
    for path in _weight_files(folder):
        _check_weights(path)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object that the file holds.

    Raises:
        ConfigError: it is missing or no JSON; the message ends with *remedy*.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: {remedy}", path=str(path)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({type(error).__name__}): {remedy}", path=str(path)) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no JSON object: {remedy}", path=str(path))
    return content


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index, "download the model again").get("weight_map", {})
        return [folder / name for name in sorted(set(shards.values()))]
    if not (folder / "model.safetensors").exists():
        raise ConfigError(
            f"{folder} has no weights: expected model.safetensors. Weights in another form (.bin, .pt) are not loaded, "
            "since they can run code; convert them with save_pretrained(..., safe_serialization=True)",
            path=str(folder),
        )
    return [folder / "model.safetensors"]


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} is missing or cut off ({type(error).__name__}): copy or download it again", path=str(path)
        ) from None
