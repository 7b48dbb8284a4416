"""Checkpoints that a kill or a full disk cannot spoil: one counts once it is whole, and older ones go only then."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.jsontext import read_json

_WHOLE: Final = "whole.json"
"""Written last: file -> bytes."""
_STATE: Final = "trainer_state.json"
_TRAINER: Final = (_WHOLE, _STATE, "training_args.bin", "optimizer.pt", "scheduler.pt", "README.md")
_RECENT: Final = 2
"""Checkpoints that stay, besides the best one."""


def folder_of(run: Path, step: int) -> Path:
    """The folder of the checkpoint after *step*."""
    return run / f"checkpoint-{step}"


def seal(checkpoint: Path) -> None:
    """Mark *checkpoint* as whole, once its files are on the disk.

    Raises:
        OSError: the disk is full.
    """
    sizes = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != _WHOLE:
            _sync(path)
            sizes[path.relative_to(checkpoint).as_posix()] = path.stat().st_size
    partial = checkpoint / f".{_WHOLE}.partial"
    partial.write_text(json.dumps(sizes), encoding="utf-8")
    _sync(partial)
    partial.replace(checkpoint / _WHOLE)
    _sync(checkpoint)


def is_whole(checkpoint: Path) -> bool:
    """Whether *checkpoint* was sealed, and every file has the size that it had then."""
    try:
        sizes: dict[str, int] = read_json(checkpoint / _WHOLE)
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def last_whole(run: Path) -> Path | None:
    """The last checkpoint of *run* that is whole."""
    return next(filter(is_whole, sorted(_all(run), key=step_of, reverse=True)), None)


def step_of(checkpoint: Path) -> int:
    """The step after which *checkpoint* was written."""
    return int(checkpoint.name.rpartition("-")[2])


def prune(run: Path, best: int | None) -> None:
    """Delete the checkpoints of *run* but the last whole ones and that of step *best*; half-written ones too."""
    whole = sorted(filter(is_whole, _all(run)), key=step_of)
    staying = {*whole[-_RECENT:], *(each for each in whole if step_of(each) == best)}
    for checkpoint in set(_all(run)) - staying:
        shutil.rmtree(checkpoint, ignore_errors=True)


def drop_after(run: Path, step: int) -> None:
    """Delete the checkpoints of *run* that are later than *step*: they are not whole."""
    for checkpoint in _all(run):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint, ignore_errors=True)


def state_of(checkpoint: Path) -> dict[str, Any]:
    """What the trainer recorded up to *checkpoint*: steps, losses, the best step."""
    state: dict[str, Any] = read_json(checkpoint / _STATE)
    return state


def is_finished(checkpoint: Path, steps: int) -> bool:
    """Whether the training had ended at *checkpoint*: all *steps* were done, or it was stopped early."""
    state = state_of(checkpoint)
    stopped = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {}).get("should_training_stop")
    return bool(stopped) or int(state["global_step"]) >= steps


def copy_model(checkpoint: Path, out: Path) -> None:
    """Copy the model of *checkpoint* to the folder *out*, without the state of the trainer."""
    for path in checkpoint.iterdir():
        if path.is_file() and path.name not in _TRAINER and not path.name.startswith("rng_state"):
            shutil.copyfile(path, out / path.name)
    path = out / "config.json"
    if path.is_file():  # the trainer switches the cache off, which only answers need
        config = read_json(path)
        if "use_cache" in config:
            path.write_text(json.dumps({**config, "use_cache": True}, indent=2) + "\n", encoding="utf-8")


def _all(run: Path) -> Iterator[Path]:
    return (path for path in run.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
