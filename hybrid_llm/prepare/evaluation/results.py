"""`results.json`: the figures of an evaluation, as records that are written and read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.evaluation.metrics.bootstrap import Difference, Estimate
from hybrid_llm.prepare.evaluation.metrics.labels import Bin
from hybrid_llm.prepare.evaluation.subjects.subject import About

RESULTS_NAME: Final = "results.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Milliseconds to the first token and to the end of an answer, and tokens a second behind the first one."""

    ttft_ms_p50: float
    ttft_ms_p95: float
    total_ms_p50: float
    total_ms_p95: float
    tokens_per_s_p50: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of this machine for each item, and how they are known: `measured`, or an `estimate`, and by what."""

    joules_per_item: float
    how: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What one subject did with one task.

    Attributes:
        metrics: name -> figure with its interval.
        errors: class of error -> items that had no answer for it.
        routes: backend -> items that it answered.
        cloud: items for which something left this device.
        cost: of all items, in the currency of the configuration.
        reliability: the reliability diagram of the labels' probabilities.
        confusion: the labels that hold, by row, and those that were answered, by column; the last column is none.
        skipped: why the subject cannot do the task at all.
    """

    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    routes: Mapping[str, int] = field(default_factory=dict)
    cloud: int = 0
    cost: float = 0.0
    latency: Latency | None = None
    energy: Energy | None = None
    reliability: tuple[Bin, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    skipped: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """By how much the figure of *second* exceeds that of *first*, on the same items.

    Attributes:
        mcnemar: the p-value of McNemar's test, for metrics that are right or wrong by item.
    """

    metric: str
    first: str
    second: str
    difference: Difference
    mcnemar: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One task.

    Attributes:
        request_task: what requests call their task.
        quality: the metric that policies read; empty if none goes from 0 to 1.
        scale: the figure of a perfect answer by that metric.
    """

    kind: str
    items: int
    request_task: str
    quality: str
    scale: float
    labels: tuple[str, ...] = ()
    scores: Mapping[str, Scores] = field(default_factory=dict)
    compared: tuple[Compared, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """An evaluation: subjects and tasks by name."""

    suite: str
    suite_digest: str
    about: str
    created: str
    seed: int
    subjects: Mapping[str, About]
    tasks: Mapping[str, TaskResult]

    def to_json(self) -> str:
        """The text of `results.json`; a figure that is no number is null."""
        return json.dumps({"version": VERSION, **_plain(asdict(self))}, indent=2, ensure_ascii=False) + "\n"


def read_results(path: Path) -> Results:
    """The results in the file at *path*.

    Raises:
        ConfigError: it cannot be read, is of another version, or is no evaluation.
    """
    try:
        plain = read_json(path)
        if plain.pop("version") != VERSION:
            raise ValueError("another version")
        subjects = {name: About(**about) for name, about in plain.pop("subjects").items()}
        tasks = {name: _task(task) for name, task in plain.pop("tasks").items()}
        return Results(subjects=subjects, tasks=tasks, **plain)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"{path} is no evaluation that can be read ({type(error).__name__}): evaluate again"
        raise ConfigError(message, path=str(path)) from None


def _task(plain: dict[str, Any]) -> TaskResult:
    scores = {name: _scores(each) for name, each in plain.pop("scores").items()}
    compared = tuple(
        Compared(**{**each, "difference": Difference(**_numbers(each["difference"]))}) for each in plain.pop("compared")
    )
    return TaskResult(**{**plain, "labels": tuple(plain["labels"]), "scores": scores, "compared": compared})


def _scores(plain: dict[str, Any]) -> Scores:
    made = {
        "metrics": {name: Estimate(**_numbers(each)) for name, each in plain["metrics"].items()},
        "latency": None if plain["latency"] is None else Latency(**plain["latency"]),
        "energy": None if plain["energy"] is None else Energy(**plain["energy"]),
        "reliability": tuple(Bin(**each) for each in plain["reliability"]),
        "confusion": tuple(map(tuple, plain["confusion"])),
    }
    return Scores(**{**plain, **made})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(plain: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in plain.items()}
