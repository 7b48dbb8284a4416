"""The record of a step, `step.json` in its folder: what it was made of, by what, at which cost, and what came out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from hybrid_llm.core.errors import ConfigError, HybridLLMError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.recipe.digests import RECORD_NAME, digest_content, digest_files, write_text
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
    """Models are made, and may not be published: a metric misses a floor or a ceiling of the recipe.

    *refused*, step -> why, are those that were left out for that reason, or for one on the card of what they read.
    """

    def __init__(self, breaches: tuple[Breach, ...], refused: Mapping[str, str] | None = None) -> None:
        refused = refused or {}
        listed = [*map(str, breaches), *(f"step `{step}` did not run: {why}" for step, why in refused.items())]
        remedy = "what is made of this cannot be published; improve it, or change the recipe"
        super().__init__("\n".join([*listed, remedy]))
        self.breaches, self.refused = breaches, refused


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
        sealed: whether the folder has no file of ours but the result: `files` has all of them, and the record is
            beside the folder.
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
    sealed: bool = False

    @property
    def digest(self) -> str:
        """The content hash of the result."""
        return digest_content(self.files)

    def to_json(self) -> str:
        """The text of `step.json`."""
        fields = {"version": _VERSION, **jsonable(self), "digest": self.digest}  # type: ignore[dict-item]
        return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Leave the record of the result in *folder* where `read` finds it."""
        write_text(record_path(folder, sealed=self.sealed), self.to_json())

    @classmethod
    def read(cls, folder: Path, *, sealed: bool = False) -> Self | None:
        """The record of the result in *folder*; None where there is none, or none that can be read."""
        try:
            values = read_json(record_path(folder, sealed=sealed))
            if values.pop("version") != _VERSION or values.pop("digest") != digest_content(values["files"]):
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
        there = digest_files(folder, whole=self.sealed)
        differing = (name for name in {**self.files, **there} if self.files.get(name) != there.get(name))
        return next(differing, "")


def record_path(folder: Path, *, sealed: bool) -> Path:
    """Where the record of the result in *folder* is: in it, or, of a *sealed* one, beside it."""
    return folder.with_name(f".{folder.name}.{RECORD_NAME}") if sealed else folder / RECORD_NAME


def require_replaceable(folder: Path, *, sealed: bool) -> None:
    """Check that a result may take the place of *folder*: it is not there, is empty, or was made by a step.

    A record that cannot be read is one too: a step that left it is done again.

    Raises:
        ConfigError: it holds something else, which is not ours to delete.
    """
    records = {record_path(folder, sealed=sealed), record_path(folder, sealed=False)}
    if not folder.exists() or any(path.is_file() for path in records):
        return
    if not folder.is_dir() or any(folder.iterdir()):
        message = f"{folder} is there already and was not made by a step: it has no {RECORD_NAME}, and is not replaced"
        raise ConfigError(f"{message}. Choose another folder with --out, or move or delete it", path=str(folder))


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
