"""Runs one step without a recipe: its options make the folder that a recipe would leave, with its record and card."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hybrid_llm.backends.models.locks import locked
from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.recipe.card import write_cards
from hybrid_llm.prepare.recipe.document import Recipe, RecipeStep
from hybrid_llm.prepare.recipe.execution import ELSEWHERE, execute
from hybrid_llm.prepare.recipe.record import StepRecord
from hybrid_llm.prepare.recipe.runner import NO_RESULT, UP_TO_DATE, StepResult, difference, job_of, tampered
from hybrid_llm.prepare.step import Progress


def run_step(step: RecipeStep, out: Path, *, force: bool = False, progress: Progress) -> StepResult:
    """Do the work of *step*, whose inputs are paths, and leave its result at *out*; a result that is there is kept.

    An interruption leaves the checkpoints in a hidden folder beside *out*, and the next call goes on with them.

    Args:
        step: The step. It has the name of *out*.
        out: The folder of the result.
        force: Replace what is there.
        progress: Called while it runs.

    Raises:
        ConfigError: *out* is there, and holds something else; or as `execute`.
    """
    job = job_of(step, {one.input: Path(one.input.text) for one in step.readings})
    record = StepRecord.read(out)
    why = NO_RESULT
    if record is not None:
        why = difference(record, job) or tampered(record, out)
    if record is not None and not why and not force:
        with disk_errors(out.absolute().parent, ELSEWHERE):
            write_cards(Recipe(name=step.name, steps={step.name: step}), out.parent)  # a kill may have left none
        return StepResult(name=step.name, kind=step.kind, why=UP_TO_DATE, record=record)
    if out.exists() and not force:
        message = f"{out} is there already, and is not what this makes{f' ({why})' if record else ''}"
        raise ConfigError(f"{message}: choose another folder, or replace it with --force", path=str(out))
    with disk_errors(out.absolute().parent, ELSEWHERE), _alone(out) as scratch:
        staging = out.with_name(f".{out.name}.staging")
        record = execute(job, out, staging, scratch / job.key[:16], progress)
        write_cards(Recipe(name=step.name, steps={step.name: step}), out.parent)
        shutil.rmtree(scratch, ignore_errors=True)
    return StepResult(name=step.name, kind=step.kind, why=why, record=record)


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """The folder for checkpoints, held by this process alone."""
    scratch = out.with_name(f".{out.name}.scratch")
    scratch.mkdir(parents=True, exist_ok=True)
    with locked(scratch, ".run") as held:
        if not held:
            raise ConfigError(f"another process makes {out}: wait for it, or choose another folder", path=str(out))
        yield scratch
