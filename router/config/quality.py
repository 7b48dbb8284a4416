"""How good backends were when they were evaluated, by the task of a request: read from `results.json`.

`hybrid_llm.prepare.evaluation` writes the file. A figure is a quality from 0 to 1: that of the metric which the file
names for the task, divided by the figure of a perfect answer. It holds for one model, which its digest names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.log import log

if TYPE_CHECKING:
    from hybrid_llm.backends.registry import BackendSpec

VERSION: Final = 1
"""Of `results.json`."""
Qualities = Mapping[str, Mapping[str, float]]
"""Backend -> task of a request -> quality, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """One model that was evaluated alone: the backend's name there, its digest, and task -> quality."""

    backend: str
    digest: str
    qualities: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a file of results holds for the backends of a configuration.

    Attributes:
        qualities: of the backends whose models are those that were evaluated.
        stale: the backends that were evaluated with another model: their figures are not used.
    """

    qualities: Qualities
    stale: tuple[str, ...] = ()


def read_evaluated(path: Path) -> tuple[Evaluated, ...]:
    """The models that the file at *path* has figures of.

    Raises:
        ConfigError: it cannot be read, is of another version, or is no result of `hybrid-llm models evaluate`.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["version"] != VERSION:
            message = f"{path} has version {plain['version']!r}, and this library reads {VERSION}: evaluate again"
            raise ConfigError(message, path=str(path))
        return tuple(_evaluated(plain))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} is no result of `hybrid-llm models evaluate` ({type(error).__name__}): evaluate again"
        raise ConfigError(message, path=str(path)) from None


def _evaluated(plain: Mapping[str, Any]) -> Iterator[Evaluated]:
    for name, about in plain["subjects"].items():
        backend = about["backend"]
        if backend:  # else a policy chose
            qualities = dict(_qualities(plain["tasks"].values(), name))
            yield Evaluated(backend=backend, digest=str(about["digests"][backend]), qualities=qualities)


def _qualities(tasks: Iterable[Mapping[str, Any]], subject: str) -> Iterator[tuple[str, float]]:
    """Task of requests -> the mean of its figures, each weighed by its number of items."""
    found: dict[str, list[tuple[int, float]]] = {}
    for task in tasks:
        metric, scores = task["quality"], task["scores"].get(subject, {}).get("metrics", {})
        value = scores[metric]["value"] if metric in scores else None
        if value is not None and task["scale"] > 0:
            share = float(value) / float(task["scale"])
            if not 0.0 <= share <= 1.0 or not isinstance(task["items"], int) or task["items"] < 1:
                raise ValueError("a figure is out of its range")
            found.setdefault(str(task["request_task"]), []).append((task["items"], share))
    for name, figures in found.items():
        total = sum(items for items, _ in figures)
        yield name, min(1.0, math.fsum(items * share for items, share in figures) / total)


def figures_for(specs: Iterable[BackendSpec], evaluated: Iterable[Evaluated]) -> Figures:
    """The figures of those *evaluated* models that the backends *specs* have now."""
    by_name, by_digest = {}, {}
    for one in evaluated:
        by_name[one.backend], by_digest[one.digest] = one, one
    qualities: dict[str, Mapping[str, float]] = {}
    stale = []
    for spec in specs:
        digest = _digest(spec)
        if (same := by_digest.get(digest)) is not None:
            qualities[spec.name] = same.qualities
        elif spec.name in by_name:
            stale.append(spec.name)
    return Figures(qualities=qualities, stale=tuple(stale))


def _digest(spec: BackendSpec) -> str:
    """The digest of the backend's model; empty where that cannot be read, which opening the backend reports."""
    from hybrid_llm.backends.digests import model_digest

    try:
        return model_digest(spec)
    except (ConfigError, OSError):
        return ""


def stale_text(path: Path, name: str) -> str:
    """What is wrong with the figures of the backend *name*."""
    return f"{path.name}: the model of `{name}` is not the one that was evaluated, so its quality is not used"


def open_qualities(path: Path | None, specs: Iterable[BackendSpec]) -> Qualities:
    """The qualities in the file at *path*, with a warning for each stale one; none without a file.

    Raises:
        ConfigError: the file is unusable.
    """
    if path is None:
        return {}
    figures = figures_for(specs, read_evaluated(path))
    for name in figures.stale:
        log.warning("%s", stale_text(path, name))
    return figures.qualities


def check_figures(path: Path, specs: Sequence[BackendSpec]) -> str:
    """What is wrong with the file at *path* for the backends *specs*; empty where it evaluates one of them."""
    try:
        evaluated = read_evaluated(path)
    except ConfigError as error:
        return str(error)
    figures = figures_for(specs, evaluated)
    if figures.qualities or figures.stale:
        return ""
    known = ", ".join(f"`{one.backend}`" for one in evaluated) or "no model alone"
    return f"{path} evaluates none of the backends of this file: it has {known}"
