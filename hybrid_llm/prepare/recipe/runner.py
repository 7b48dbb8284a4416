"""Runs the steps of a recipe that are not up to date, each after those that it reads.

In the folder of the results, `STEP` is what a step has made, `.staging` what is being made, `.scratch` the checkpoints
of steps that were interrupted, and `.run.lock` the lock of the one process that writes there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.prepare.recipe.card import write_cards
from hybrid_llm.prepare.recipe.digests import RECORD_NAME, digest_path, write_text
from hybrid_llm.prepare.recipe.document import Recipe, RecipeStep
from hybrid_llm.prepare.recipe.execution import ELSEWHERE, Job, execute
from hybrid_llm.prepare.recipe.graph import ancestors, order, parents
from hybrid_llm.prepare.recipe.record import StepRecord, breaches
from hybrid_llm.prepare.step import Input

_STAGING: Final = ".staging"
_SCRATCH: Final = ".scratch"
UP_TO_DATE: Final = "up to date"
NO_RESULT: Final = "it has no result yet"

Report = Callable[[str, str, float], None]
"""Called with a step, what it is doing, and the share of it that is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of a step.

    Attributes:
        why: why it had to run, or `UP_TO_DATE`.
        record: of its result; None in a plan, for a step that will run.
    """

    name: str
    kind: str
    why: str
    record: StepRecord | None

    @property
    def is_due(self) -> bool:
        """Whether it had, or has, to run."""
        return self.why != UP_TO_DATE


def plan_recipe(recipe: Recipe, out: Path, *, only: str = "", force: Collection[str] = ()) -> tuple[StepResult, ...]:
    """What `run_recipe` would do; nothing is written.

    Raises:
        ConfigError: there is no step of such a name, or an input cannot be read.
    """
    run, due = _Run(recipe, out, frozenset(force)), list[StepResult]()
    for name in _chosen(recipe, only, force):
        stale = {one.name for one in due if one.is_due}
        waits = [parent for parent in parents(recipe.steps[name], recipe.steps) if parent in stale]
        why, record = (f"`{waits[0]}` runs", None) if waits else run.state(name)
        due.append(StepResult(name=name, kind=recipe.steps[name].kind, why=why, record=record))
    return tuple(due)


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    only: str = "",
    force: Collection[str] = (),
    report: Report = lambda step, what, share: None,  # noqa: ARG005
) -> tuple[StepResult, ...]:
    """Run the steps that are not up to date, and write the cards of the models.

    An interruption at any point leaves every finished step as it is; the next call goes on. A step whose metric misses
    a bound is finished too, and `breaches` of its record says so.

    Args:
        recipe: What to run.
        out: The folder of the results; it is made.
        only: Run this step alone, and those that it reads.
        force: Steps that run although they are up to date.
        report: Called while steps run.

    Raises:
        ConfigError: a step or an input is unusable, or another process writes to *out*.
        NoSpace: the disk is full.
        StepFailed: a step raised what is no error of ours.
    """
    chosen, run = _chosen(recipe, only, force), _Run(recipe, out, frozenset(force))
    with disk_errors(out.parent, ELSEWHERE), _alone(out):
        done = list[StepResult]()
        for name in chosen:
            done.append(run.finish(name, report))
            write_cards(recipe, out)  # at once: what a later step or a kill ends must not lack its refusals
    return tuple(done)


class _Run:
    """One run: where results are, and the hashes of paths, which are computed once."""

    def __init__(self, recipe: Recipe, out: Path, force: frozenset[str]) -> None:
        self._recipe, self._out, self._force = recipe, out, force
        self._digests: dict[Path, str] = {}

    def state(self, name: str) -> tuple[str, StepRecord | None]:
        """Why the step has to run, or `UP_TO_DATE` with its record; the steps that it reads are finished."""
        if name in self._force:
            return "it is forced to", None
        folder = self._out / name
        record = StepRecord.read(folder)
        if record is None:
            return NO_RESULT if not folder.exists() else "its record cannot be read", None
        why = difference(record, self._job(name)) or tampered(record, folder)
        return (why, None) if why else (UP_TO_DATE, record)

    def finish(self, name: str, report: Report) -> StepResult:
        """The result of the step, which runs if it has to."""
        report(name, "checking what is there", 0.0)
        why, record = self.state(name)
        step = self._recipe.steps[name]
        if record is not None:
            record = _judged(record, step, self._out / name)
        else:
            job, scratch = self._job(name), self._out / _SCRATCH / name
            progress = partial(report, name)
            record = execute(job, self._out / name, self._out / _STAGING / name, scratch / job.key[:16], progress)
            shutil.rmtree(scratch, ignore_errors=True)  # checkpoints with other options too: they are stale
        return StepResult(name=name, kind=step.kind, why=why, record=record)

    def _job(self, name: str) -> Job:
        step = self._recipe.steps[name]
        inputs = {one.input: self._input(one.input) for one in step.readings}
        return Job(step=step, inputs=inputs, seed=_seed(step, self._recipe.seed))

    def _input(self, given: Input) -> tuple[Path, str]:
        if given.text in self._recipe.steps:
            folder = self._out / given.text
            record = StepRecord.read(folder)
            if record is None:
                raise ConfigError(f"{folder} has no readable record: run its step again", path=str(folder))
            return folder, record.digest
        path = self._recipe.folder / given.text
        if path not in self._digests:
            self._digests[path] = digest_path(path)
        return path, self._digests[path]


def job_of(step: RecipeStep, paths: Mapping[Input, Path]) -> Job:
    """*step* with inputs that are paths.

    Raises:
        ConfigError: one of them cannot be read.
    """
    inputs = {given: (path, digest_path(path)) for given, path in paths.items()}
    return Job(step=step, inputs=inputs, seed=_seed(step, 0))


def _seed(step: RecipeStep, default: int) -> int:
    return default if step.bounds.seed is None else step.bounds.seed


def difference(record: StepRecord, job: Job) -> str:
    """What has changed since the step ran; empty if nothing."""
    if record.key == job.key and record.kind == job.step.kind:
        return ""
    if record.kind != job.step.kind:
        return "its kind has changed"
    parts = job.parts
    changed = [name for name in {**parts, **record.parts} if parts.get(name) != record.parts.get(name)]
    return f"{changed[0]} has changed" if changed else "its record does not fit"


def _judged(record: StepRecord, step: RecipeStep, folder: Path) -> StepRecord:
    """*record* by the floors and ceilings that *step* has now: they change no result."""
    found = tuple(breaches(step.name, record.metrics, step.bounds.floors, step.bounds.ceilings))
    if found == record.breaches:
        return record
    judged = replace(record, breaches=found)
    write_text(folder / RECORD_NAME, judged.to_json())
    return judged


def tampered(record: StepRecord, folder: Path) -> str:
    """Which file of *folder* is not as the step left it, in words; empty if all are."""
    file = record.changed_file(folder)
    return f"{file} was changed after it had run" if file else ""


def _chosen(recipe: Recipe, only: str, force: Collection[str]) -> tuple[str, ...]:
    for name in (*([only] if only else []), *force):
        if name not in recipe.steps:
            raise ConfigError(f"the recipe has no step `{name}`: {did_you_mean(name, recipe.steps)}")
    wanted = {only, *ancestors(recipe, only)} if only else set(recipe.steps)
    return tuple(name for name in order(recipe) if name in wanted)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Be the only process that writes to *out*, and clear away what killed ones left."""
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, ".run") as held:
        if not held:
            message = f"another process runs a recipe in {out}: wait for it, or choose another folder with --out"
            raise ConfigError(message, path=str(out))
        shutil.rmtree(out / _STAGING, ignore_errors=True)
        try:
            yield
        finally:
            for name in (_STAGING, _SCRATCH):
                _remove_empty(out / name)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)
