"""The record of a step, `step.json` in its folder: what it was made of, by what, at which cost, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.prepare.recipe.digests import RECORD_NAME, digest_files, digest_of
from hybrid_llm.prepare.recipe.meter import Cost, Energy
from hybrid_llm.prepare.step import Makes

_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """A metric of a step that is under its floor, or over its ceiling; *value* is None where the step reports none."""

    step: str
    metric: str
    value: float | None
    bound: float
    is_floor: bool = True

    def __str__(self) -> str:
        which = "under its floor" if self.is_floor else "over its ceiling"
        if self.value is None:
            return f"step `{self.step}` reports no `{self.metric}`, whose {which.split()[-1]} is {self.bound:g}"
        return f"step `{self.step}`: {self.metric} is {self.value:g}, {which} of {self.bound:g}"


class BelowFloor(HybridLLMError):
    """Models are made, and may not be published: a metric misses a floor or a ceiling of the recipe."""

    def __init__(self, breaches: tuple[Breach, ...]) -> None:
        listed = "\n".join(map(str, breaches))
        super().__init__(f"{listed}\nwhat is made of this cannot be published; improve it, or change the recipe")
        self.breaches = breaches


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What `step.json` holds.

    Attributes:
        step: the name of the step.
        makes: data, a model or a report.
        key: the hash of all that determines the result.
        parts: what the key was made of, by part, to say what has changed.
        options: as in the recipe, defaults too.
        inputs: step or path -> its content hash.
        files: path in the folder -> SHA-256.
        metrics: of the result.
        before: the same metrics of the model that the step was given.
        card: sections for the card.
        breaches: the bounds that the metrics miss.
        libraries: name -> version of those that were imported.
        started: in ISO 8601.
    """

    step: str
    kind: str
    makes: Makes
    step_version: int
    key: str
    parts: Mapping[str, str]
    seed: int
    options: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: Mapping[str, str]
    metrics: Mapping[str, float]
    before: Mapping[str, float]
    card: Mapping[str, Any]
    breaches: tuple[Breach, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    started: str
    cost: Cost

    @property
    def digest(self) -> str:
        """The content hash of the result."""
        return digest_of(self.files)

    def to_json(self) -> str:
        """The text of `step.json`."""
        fields = {"version": _VERSION, **jsonable(self), "digest": self.digest}  # type: ignore[dict-item]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in *folder*; None where there is none, or none that can be read."""
        try:
            values = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
            if values.pop("version") != _VERSION or values.pop("digest") != digest_of(values["files"]):
                return None
            cost = values.pop("cost")
            return cls(
                makes=Makes(values.pop("makes")),
                breaches=tuple(Breach(**one) for one in values.pop("breaches")),
                cost=Cost(**{**cost, "energy": Energy(**cost["energy"])}),
                **values,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def changed_file(self, folder: Path) -> str:
        """A file of *folder* that is missing, added or modified since; empty where there is none."""
        there = digest_files(folder)
        differing = (name for name in {**self.files, **there} if self.files.get(name) != there.get(name))
        return next(differing, "")


def breaches(
    step: str, metrics: Mapping[str, float], floors: Mapping[str, float], ceilings: Mapping[str, float]
) -> Iterator[Breach]:
    """The bounds that *metrics* miss; one that the step does not report, or that is no number, is missed."""
    for metric, bound in floors.items():
        value = metrics.get(metric)
        if value is None or not value >= bound:
            yield Breach(step=step, metric=metric, value=value, bound=bound)
    for metric, bound in ceilings.items():
        value = metrics.get(metric)
        if value is None or not value <= bound:
            yield Breach(step=step, metric=metric, value=value, bound=bound, is_floor=False)
