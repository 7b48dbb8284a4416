"""Runs the steps of a recipe that are not up to date, each after those that it reads.

In the folder of the results, `STEP` is what a step has made, `.staging` what is being made, `.scratch` the checkpoints
of steps that were interrupted, and `.run.lock` the lock of the one process that writes there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.prepare.recipe.card import refusals, write_cards
from hybrid_llm.prepare.recipe.digests import digest_about, digest_of, digest_path
from hybrid_llm.prepare.recipe.document import Recipe, RecipeStep
from hybrid_llm.prepare.recipe.execution import ELSEWHERE, Job, execute
from hybrid_llm.prepare.recipe.freshness import depends_of
from hybrid_llm.prepare.recipe.graph import before, needed, order, parents
from hybrid_llm.prepare.recipe.record import StepRecord, breaches, record_path, require_replaceable
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
        refused: why it may not run at all: it gives a model out of hand that misses a bound, or it reads the result of
            such a step.
    """

    name: str
    kind: str
    why: str
    record: StepRecord | None
    refused: str = ""

    @property
    def is_due(self) -> bool:
        """Whether it had, or has, to run."""
        return self.why != UP_TO_DATE


def plan_recipe(recipe: Recipe, out: Path, *, only: str = "", force: Collection[str] = ()) -> tuple[StepResult, ...]:
    """What `run_recipe` would do; nothing is written.

    Raises:
        ConfigError: there is no step of such a name, an input cannot be read, or the folder of a step holds what
            no step has made.
    """
    run, due = _Run(recipe, out, frozenset(force)), list[StepResult]()
    for name in _chosen(recipe, only, force):
        require_replaceable(out / name, sealed=recipe.steps[name].sealed)
        stale = {one.name for one in due if one.is_due and not one.refused}
        waits = [parent for parent in before(recipe.steps[name], recipe.steps) if parent in stale]
        refused = "" if waits else run.refused(name, due)
        if waits or refused:
            why, record = refused or f"`{waits[0]}` runs", None
        else:
            why, record = run.state(name)
        due.append(StepResult(name=name, kind=recipe.steps[name].kind, why=why, record=record, refused=refused))
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
    a bound is finished too, and `breaches` of its record says so; the steps that would give its models out of hand are
    left out, and `refused` of their results says why.

    Args:
        recipe: What to run.
        out: The folder of the results; it is made.
        only: Run this step alone, and those that it reads.
        force: Steps that run although they are up to date.
        report: Called while steps run.

    Raises:
        ConfigError: a step or an input is unusable, the folder of a step holds what no step has made, or another
            process writes to *out*.
        NoSpace: the disk is full.
        StepFailed: a step raised what is no error of ours.
    """
    chosen, run = _chosen(recipe, only, force), _Run(recipe, out, frozenset(force))
    with disk_errors(out.parent, ELSEWHERE), _alone(out, recipe.steps):
        done = list[StepResult]()
        for name in chosen:
            require_replaceable(out / name, sealed=recipe.steps[name].sealed)
            check_step(recipe.steps[name])
        for name in chosen:
            refused = run.refused(name, done)
            done.append(run.refuse(name, refused) if refused else run.finish(name, report))
            write_cards(recipe, out)  # at once: what a later step or a kill ends must not lack its refusals
    return tuple(done)


class _Run:
    """One run: where results are, and the hashes of paths, which are computed once."""

    def __init__(self, recipe: Recipe, out: Path, force: frozenset[str]) -> None:
        self._recipe, self._out, self._force = recipe, out, force
        self._digests: dict[tuple[Path, bool], str] = {}

    def state(self, name: str, job: Job | None = None) -> tuple[str, StepRecord | None]:
        """Why the step has to run, or `UP_TO_DATE` with its record; the steps that it reads are finished."""
        if name in self._force:
            return "it is forced to", None
        folder = self._out / name
        record = StepRecord.read(folder, sealed=self._recipe.steps[name].sealed)
        if record is None:
            return NO_RESULT if not folder.exists() else "its record cannot be read", None
        why = difference(record, job or self._job(name)) or tampered(record, folder)
        return (why, None) if why else (UP_TO_DATE, record)

    def refused(self, name: str, done: Sequence[StepResult]) -> str:
        """Why the step may not run; empty where it may. The steps before it are *done*."""
        step, names = self._recipe.steps[name], {one.name for one in done if one.refused}
        if step.releases and (found := refusals(self._recipe, self._out, name)):
            return "; ".join(found)
        return next((f"`{one}` did not run" for one in parents(step, self._recipe.steps) if one in names), "")

    def refuse(self, name: str, why: str) -> StepResult:
        """Leave the step out; a signed copy of an earlier run does not stay, its card says that it may go out."""
        step, folder = self._recipe.steps[name], self._out / name
        if step.sealed and step.releases:
            record_path(folder, sealed=True).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        return StepResult(name=name, kind=step.kind, why=why, record=None, refused=why)

    def finish(self, name: str, report: Report) -> StepResult:
        """The result of the step, which runs if it has to."""
        report(name, "checking what is there", 0.0)
        step, job = self._recipe.steps[name], self._job(name)
        why, record = self.state(name, job)
        scratch = self._out / _SCRATCH / name
        if record is not None:
            record = _judged(record, step, self._out / name)
        else:
            progress = partial(report, name)
            record = execute(job, self._out / name, self._out / _STAGING / name, scratch / job.key[:16], progress)
        shutil.rmtree(scratch, ignore_errors=True)  # checkpoints with other options too: they are stale
        return StepResult(name=name, kind=step.kind, why=why, record=record)

    def _job(self, name: str) -> Job:
        step = self._recipe.steps[name]
        inputs = {one.input: self._input(one.input, whole=step.releases) for one in step.readings}
        return Job(step=step, inputs=inputs, depends=depends_of(step), seed=_seed(step, self._recipe.seed))

    def _input(self, given: Input, *, whole: bool) -> tuple[Path, str]:
        """The folder or file, and its hash; with the card and the other files about it if *whole*."""
        if (step := self._recipe.steps.get(given.text)) is not None:
            folder = self._out / given.text
            record = StepRecord.read(folder, sealed=step.sealed)
            if record is None:
                raise ConfigError(f"{folder} has no readable record: run its step again", path=str(folder))
            return folder, digest_of({**record.files, **digest_about(folder)}) if whole else record.digest
        path = self._recipe.folder / given.text
        if (path, whole) not in self._digests:
            self._digests[path, whole] = digest_path(path, whole=whole)
        return path, self._digests[path, whole]


def check_step(step: RecipeStep) -> None:
    """What a step wants to check before the first one of a run begins.

    Raises:
        ConfigError: what the step says.
    """
    check: Callable[[], None] = getattr(step.step, "check", lambda: None)
    check()


def job_of(step: RecipeStep, paths: Mapping[Input, Path]) -> Job:
    """*step* with inputs that are paths.

    Raises:
        ConfigError: one of them cannot be read.
    """
    inputs = {given: (path, digest_path(path, whole=step.releases)) for given, path in paths.items()}
    return Job(step=step, inputs=inputs, depends=depends_of(step), seed=_seed(step, 0))


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
    judged.write(folder)
    return judged


def tampered(record: StepRecord, folder: Path) -> str:
    """Which file of *folder* is not as the step left it, in words; empty if all are."""
    file = record.changed_file(folder)
    return f"{file} was changed after it had run" if file else ""


def _chosen(recipe: Recipe, only: str, force: Collection[str]) -> tuple[str, ...]:
    for name in (*([only] if only else []), *force):
        if name not in recipe.steps:
            raise ConfigError(f"the recipe has no step `{name}`: {did_you_mean(name, recipe.steps)}")
    wanted = {only, *needed(recipe, only)} if only else set(recipe.steps)
    return tuple(name for name in order(recipe) if name in wanted)


@contextmanager
def _alone(out: Path, steps: Collection[str]) -> Iterator[None]:
    """Be the only process that writes to *out*; what killed ones left goes, but for checkpoints of *steps*."""
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, ".run") as held:
        if not held:
            message = f"another process runs a recipe in {out}: wait for it, or choose another folder with --out"
            raise ConfigError(message, path=str(out))
        shutil.rmtree(out / _STAGING, ignore_errors=True)
        for scratch in (out / _SCRATCH).glob("*"):
            if scratch.name not in steps:
                shutil.rmtree(scratch, ignore_errors=True)
        try:
            yield
        finally:
            for name in (_STAGING, _SCRATCH):
                _remove_empty(out / name)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)
