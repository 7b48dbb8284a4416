"""Switches off what gRPC does at forks. Imported before gRPC, which reads the variable when it starts.

With its own support of forks, gRPC stops and restarts its threads around every fork of the process, also for a child
that only calls `exec`; with streams in flight that ended one child in five.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path

_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
_THREADS = ("event_engine", "grpc_global_tim")


def _thread_names() -> set[str]:
    """The names of this process's threads, where the kernel lists them."""
    names = set()
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # it has ended meanwhile
                names.add((task / "comm").read_text().strip())
    return names


def _switch_off() -> None:
    if _VARIABLE in os.environ:
        return
    os.environ[_VARIABLE] = "0"
    if not _thread_names().isdisjoint(_THREADS):
        warnings.warn(
            "gRPC was started before hybrid_llm was imported, with its support of forks, which may end child "
            f"processes while streams run. Set {_VARIABLE}=0, or import hybrid_llm's backends first.",
            RuntimeWarning,
            stacklevel=2,
        )


_switch_off()
