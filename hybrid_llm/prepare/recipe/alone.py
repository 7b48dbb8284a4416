"""Runs one step without a recipe: its options make the folder that a recipe would leave, with its record and card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.recipe.card import refusals, write_cards
from hybrid_llm.prepare.recipe.document import Recipe, RecipeStep
from hybrid_llm.prepare.recipe.execution import ELSEWHERE, execute
from hybrid_llm.prepare.recipe.record import StepRecord, require_replaceable
from hybrid_llm.prepare.recipe.runner import (
    NO_RESULT,
    UP_TO_DATE,
    StepResult,
    check_step,
    difference,
    job_of,
    tampered,
)
from hybrid_llm.prepare.step import Progress

_LOCK: Final = ".run"


def run_step(step: RecipeStep, out: Path, *, force: bool = False, progress: Progress) -> StepResult:
    """Do the work of *step*, whose inputs are paths, and leave its result at *out*; a result that is there is kept.

    An interruption leaves the checkpoints in a hidden folder beside *out*, and the next call goes on with them.

    Args:
        step: The step. It has the name of *out*.
        out: The folder of the result.
        force: Replace what is there, if it is the result of a step.
        progress: Called while it runs.

    Raises:
        ConfigError: *out* is there, and holds something else; or as `execute`.
    """
    alone = Recipe(name=step.name, steps={step.name: step})
    if step.releases and (refused := refusals(alone, out.parent, step.name)):
        raise ConfigError(f"the model may not be given out of hand: {'; '.join(refused)}", path=str(out))
    require_replaceable(out, sealed=step.sealed)
    check_step(step)
    job = job_of(step, {one.input: Path(one.input.text) for one in step.readings})
    record = StepRecord.read(out, sealed=step.sealed)
    why = NO_RESULT
    if record is not None:
        why = difference(record, job) or tampered(record, out)
    if record is not None and not why and not force:
        with disk_errors(out.absolute().parent, ELSEWHERE):
            write_cards(alone, out.parent)  # a kill may have left none
            if _scratch_of(out).is_dir():  # of a run with other options, which was killed
                with _alone(out) as scratch:
                    shutil.rmtree(scratch, ignore_errors=True)
        return StepResult(name=step.name, kind=step.kind, why=UP_TO_DATE, record=record)
    if out.exists() and not force:
        message = f"{out} is there already, and is not what this makes{f' ({why})' if record else ''}"
        raise ConfigError(f"{message}: choose another folder, or replace it with --force", path=str(out))
    with disk_errors(out.absolute().parent, ELSEWHERE), _alone(out) as scratch:
        staging = out.with_name(f".{out.name}.staging")
        record = execute(job, out, staging, scratch / job.key[:16], progress)
        write_cards(alone, out.parent)
        shutil.rmtree(scratch, ignore_errors=True)
    return StepResult(name=step.name, kind=step.kind, why=why, record=record)


def _scratch_of(out: Path) -> Path:
    """The folder of the checkpoints of *out*, beside it."""
    return out.with_name(f".{out.name}.scratch")


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """The folder for checkpoints, held by this process alone."""
    scratch = _scratch_of(out)
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(scratch, _LOCK) as held:
        if not held:
            raise ConfigError(f"another process makes {out}: wait for it, or choose another folder", path=str(out))
        try:
            yield scratch
        finally:
            if not any(path.is_file() and path.name != _LOCK + ".lock" for path in scratch.rglob("*")):
                shutil.rmtree(scratch, ignore_errors=True)  # a step that was refused has left no checkpoint
