"""Picks a variant by limits on memory, size, speed and quality, and says why the others are not it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.frontier.variants import Frontier, Variant

PREFERENCES: Final = ("quality", "speed", "size", "memory")
"""What the best of the variants that fit is best in; the others decide between equal ones, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a variant must keep; None for no limit.

    Attributes:
        memory_mb: most memory of the process that runs it.
        size_mb: most room on the disk.
        least_speed: in the unit of the frontier.
        least_quality: least value of a metric of which more is better.
        least_share: least share of the quality of the best variant, 0 to 1.
        most_perplexity: most value of the perplexity.
    """

    memory_mb: float | None = None
    size_mb: float | None = None
    least_speed: float | None = None
    least_quality: float | None = None
    least_share: float | None = None
    most_perplexity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A limit that a variant does not keep.

    Attributes:
        by: how far it is from the limit, as a share of it.
        text: for people.
    """

    by: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was chosen.

    Attributes:
        chosen: None where nothing keeps the limits.
        reasons: name of each other variant -> why it is not the chosen one.
        nearest: where nothing was chosen, the variants by how little they miss, nearest first.
    """

    chosen: Variant | None
    reasons: dict[str, str]
    nearest: tuple[Variant, ...] = ()


def choose(frontier: Frontier, limits: Limits, prefer: str = "quality") -> Choice:
    """The variant that keeps *limits* and is the best in what to *prefer*; equal ones by the rest, then by name.

    Raises:
        ConfigError: a limit does not go with the metric.
    """
    _check(frontier, limits)
    missed = {variant.name: list(_misses(frontier, variant, limits)) for variant in frontier.variants}
    fitting = [variant for variant in frontier.variants if not missed[variant.name]]
    reasons = {name: "; ".join(miss.text for miss in misses) for name, misses in missed.items() if misses}
    if not fitting:
        near = sorted(frontier.variants, key=lambda each: (sum(miss.by for miss in missed[each.name]), each.name))
        return Choice(chosen=None, reasons=reasons, nearest=tuple(near[:3]))
    order = (prefer, *(each for each in PREFERENCES if each != prefer))
    ranked = sorted(fitting, key=lambda each: (*_gains(frontier, each, order), each.name))
    chosen, *others = ranked
    for other in others:
        reasons[other.name] = _worse(frontier, chosen, other, order)
    return Choice(chosen=chosen, reasons=reasons)


def _check(frontier: Frontier, limits: Limits) -> None:
    if limits.least_quality is not None and frontier.less_is_better:
        message = f"less {frontier.metric} is better: give --min-quality as a share of the best, such as 95%"
        raise ConfigError(f"{message}, or --max-perplexity")
    if limits.most_perplexity is not None and frontier.metric != "perplexity":
        raise ConfigError(f"the variants were measured by {frontier.metric}, not by perplexity: use --min-quality")


def _gains(frontier: Frontier, variant: Variant, order: tuple[str, ...]) -> tuple[float, ...]:
    """The values in *order* as numbers of which less is better, to sort by."""
    values = dict(zip(PREFERENCES, frontier.gains(variant), strict=True))
    return tuple(-values[name] for name in order)


def _misses(frontier: Frontier, variant: Variant, limits: Limits) -> Iterator[Miss]:
    unit = frontier.unit.replace("_per_", "/")
    most = (
        ("memory", variant.peak_memory_mb, limits.memory_mb, "MB"),
        ("size", variant.size_mb, limits.size_mb, "MB"),
        ("perplexity", variant.quality, limits.most_perplexity, ""),
    )
    least = (
        ("speed", variant.speed, limits.least_speed, unit),
        (frontier.metric, variant.quality, limits.least_quality, ""),
        ("quality", 100 * frontier.relative(variant), _percent(limits.least_share), "% of the best"),
    )
    for name, value, limit, of in most:
        if limit is not None and value > limit:
            yield Miss(by=_share(value - limit, limit), text=_said(name, value, "over", limit, of))
    for name, value, limit, of in least:
        if limit is not None and value < limit:
            yield Miss(by=_share(limit - value, limit), text=_said(name, value, "under", limit, of))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _share(distance: float, limit: float) -> float:
    return distance / limit if limit else distance


def _said(name: str, value: float, side: str, limit: float, unit: str) -> str:
    return f"{name} {value:,.4g} {unit}".rstrip() + f" is {side} {limit:,.4g}"


def _worse(frontier: Frontier, chosen: Variant, other: Variant, order: tuple[str, ...]) -> str:
    """What *chosen* is better in than *other*, the first of *order* in which they differ."""
    for name, mine, theirs in zip(order, _gains(frontier, chosen, order), _gains(frontier, other, order), strict=True):
        if mine != theirs:
            return f"fits, but {chosen.name} is better in {name}" + (
                ", and worse in nothing" if frontier.dominates(chosen, other) else ""
            )
    return f"fits, and equals {chosen.name}"
