"""Runs of the step in processes that are killed: forked from one that has the libraries loaded, which takes seconds.

Where a kill shall hit is decided inside: after a step, or when a checkpoint has written some of its files.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hybrid_llm.core.errors import HybridLLMError
from tests.prepare.tuning.samples import tune

SAID = "said.txt"


def run_in_child(folder: Path, *, kill: str = "", **options: Any) -> int:
    """Run the step in a child that kills itself at *kill*; returns its exit status, negative for a signal.

    *kill* is `step N`, `open NAME` (when a file of this name is opened for the second time) or `full N`: from step N on
    the disk takes no file of more than 64 KiB.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.prepare.tuning.preload"])
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_child, args=(folder, kill, options))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _child(folder: Path, kill: str, options: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    what, _, where = kill.partition(" ")
    if what == "open":
        _kill_at_open(where)
    try:
        tune(folder=folder, progress=_PROGRESS.get(what, _quiet)(where), **options)
    except HybridLLMError as error:
        (folder / SAID).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        sys.stdout.flush()
        os._exit(9)


def _kill_at_open(name: str) -> None:
    seen = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(name) and arguments[1] == "w":
            seen.append(name)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def _quiet(_: str) -> Callable[[str, float], None]:
    return lambda what, share: None


def _kill_at_step(number: str) -> Callable[[str, float], None]:
    def progress(what: str, share: float) -> None:
        if what.startswith(f"step {number} "):
            os.kill(os.getpid(), signal.SIGKILL)

    return progress


def _fill_disk(number: str) -> Callable[[str, float], None]:
    def progress(what: str, share: float) -> None:
        if what.startswith(f"step {number} "):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))

    return progress


_PROGRESS = {"step": _kill_at_step, "full": _fill_disk}
