"""Variants of a model with their figures, which of them no other beats, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json

NAME: Final = "results.json"
_KIND: Final = "frontier"
_VERSION: Final = 1
TOKENS, TEXTS = "tokens_per_s", "texts_per_s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One model.

    Attributes:
        path: of its folder.
        size_mb: of its folder, in units of 10^6 bytes.
        peak_memory_mb: of the process that ran it, in units of 10^6 bytes.
        speed: in the unit of the frontier.
        quality: the value of the frontier's metric.
    """

    name: str
    path: str
    size_mb: float
    peak_memory_mb: float
    speed: float
    quality: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Variants that were measured on the same data and machine.

    Attributes:
        metric: of quality: `perplexity`, of which less is better, or `accuracy`.
        unit: of speed, `tokens_per_s` or `texts_per_s`.
    """

    metric: str
    unit: str
    variants: tuple[Variant, ...]

    @property
    def less_is_better(self) -> bool:
        """Whether a smaller value of the metric is better."""
        return self.metric == "perplexity"

    def better(self, value: float) -> float:
        """*value* of the metric as a number of which more is better."""
        return -value if self.less_is_better else value

    def relative(self, variant: Variant) -> float:
        """The quality of *variant* as a share of the best one's; 1 for the best."""
        best = max(self.variants, key=lambda each: self.better(each.quality)).quality
        above, below = (best, variant.quality) if self.less_is_better else (variant.quality, best)
        return above / below if below else 1.0

    def gains(self, variant: Variant) -> tuple[float, float, float, float]:
        """Quality, speed, size and memory of *variant* as numbers of which more is better."""
        return self.better(variant.quality), variant.speed, -variant.size_mb, -variant.peak_memory_mb

    def dominates(self, one: Variant, other: Variant) -> bool:
        """Whether *one* is at least as good as *other* in everything, and better in something."""
        mine, theirs = self.gains(one), self.gains(other)
        return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))

    def front(self) -> tuple[Variant, ...]:
        """The variants that no other dominates (Pareto), in the order of their names."""
        free = [one for one in self.variants if not any(self.dominates(other, one) for other in self.variants)]
        return tuple(sorted(free, key=lambda each: each.name))

    def to_json(self) -> str:
        """The text of `results.json`."""
        front = {variant.name for variant in self.front()}
        rows = [{**asdict(variant), "on_front": variant.name in front} for variant in self.variants]
        document = {
            "version": _VERSION,
            "kind": _KIND,
            "metric": self.metric,
            "less_is_better": self.less_is_better,
            "unit": self.unit,
            "variants": rows,
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read_frontier(path: Path) -> Frontier:
    """The variants of a `results.json`, or of the folder that has one.

    Raises:
        ConfigError: there is none, or it is another file.
    """
    file = path / NAME if path.is_dir() else path
    try:
        document = read_json(file)
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist: a step of kind `frontier` writes it", path=str(file)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({type(error).__name__})", path=str(file)) from None
    try:
        return _frontier(document)
    except (KeyError, TypeError, ValueError, AttributeError):
        message = f"{file} is no result of a step of kind `frontier`: run that step again, or name its file"
        raise ConfigError(message, path=str(file)) from None


def _frontier(document: Mapping[str, Any]) -> Frontier:
    if (document["version"], document["kind"]) != (_VERSION, _KIND) or document["unit"] not in {TOKENS, TEXTS}:
        raise ValueError
    variants = tuple(_variant(row) for row in document["variants"])
    if not variants or len({variant.name for variant in variants}) < len(variants):
        raise ValueError
    return Frontier(metric=str(document["metric"]), unit=str(document["unit"]), variants=variants)


def _variant(row: Mapping[str, Any]) -> Variant:
    numbers = {name: float(row[name]) for name in ("size_mb", "peak_memory_mb", "speed", "quality")}
    if not all(math.isfinite(value) and value >= 0 for value in numbers.values()):
        raise ValueError
    return Variant(name=str(row["name"]), path=str(row["path"]), **numbers)


def names_of(paths: Sequence[tuple[str, Path]]) -> list[str]:
    """A short name for each model: as it stands in the recipe, of a path its last part; longer where two are equal."""
    short = [Path(text).name or text for text, _ in paths]
    return [text if short.count(name) > 1 else name for name, (text, _) in zip(short, paths, strict=True)]
