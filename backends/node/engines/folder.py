"""Looks at the files of a model folder before anything heavy is imported: is it whole, and does it hold safetensors?

Whether a request can run here at all: asked again in the engine's process, whatever the front has checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hybrid_llm.backends.node.engine import EngineInfo, EngineRequest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Sampling


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


def objection(request: EngineRequest, info: EngineInfo) -> str | None:
    """Why *request* can never run on this engine, without its text; None when it can."""
    try:
        return next(_objections(request, info), None)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return "the request has fields of the wrong type"


def _objections(request: EngineRequest, info: EngineInfo) -> Iterator[str]:
    if not request.prompt_ids:
        yield "the prompt is empty"
    if not all(type(token) is int and 0 <= token < info.vocab_size for token in request.prompt_ids):
        yield f"a prompt id is not in 0 to {info.vocab_size - 1}"
    if not all(type(token) is int and 0 <= token < info.vocab_size for token in request.eos_ids):
        yield f"an end-of-sequence id is not in 0 to {info.vocab_size - 1}"
    if type(request.max_tokens) is not int or request.max_tokens < 1:
        yield "max_tokens must be 1 or more"
    if len(request.prompt_ids) + request.max_tokens > info.context_window:
        yield (
            f"context overflow: {len(request.prompt_ids)} prompt tokens and max_tokens {request.max_tokens} "
            f"exceed the context window of {info.context_window}"
        )
    if math.isnan(request.expires):
        yield "expires is not a time"
    if request.output_schema is not None and not info.output_schema:
        yield "unsupported: this engine cannot follow an output schema"
    yield from _sampling_objections(request.sampling)


def _sampling_objections(sampling: Sampling) -> Iterator[str]:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        yield "temperature must be a finite number, 0 or more"
    if not 0 < sampling.top_p <= 1:
        yield "top_p must be above 0 and at most 1"
    if type(sampling.top_k) is not int or sampling.top_k < 0:
        yield "top_k must be a whole number, 0 or more"
    if not 0 <= sampling.min_p <= 1:
        yield "min_p must be 0 to 1"
    if not (math.isfinite(sampling.repetition_penalty) and sampling.repetition_penalty > 0):
        yield "repetition_penalty must be a finite number above 0"
    if sampling.seed is not None and type(sampling.seed) is not int:
        yield "seed must be a whole number"
