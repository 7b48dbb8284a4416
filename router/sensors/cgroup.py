"""Finds the control groups of this process and what they and their ancestors allow; version 1 and 2. Files only.

A limit may be set on any ancestor (a Kubernetes pod, a systemd slice), and the tightest one counts: cgroups(7), and the
kernel's admin-guide/cgroup-v2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.sensors.files import Files, Found

__all__ = ["ControlGroups"]

_UNLIMITED: Final = 1 << 60
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mount:
    """One hierarchy as it is mounted here: the group *root* of it is seen at the folder *point*."""

    controllers: frozenset[str]
    """Empty for version 2."""
    root: str
    point: str


class ControlGroups:
    """The groups of the process, found again each minute, since a process can be moved."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._places = Found(self._find)

    def chain(self, controller: str) -> tuple[str, ...]:
        """The folders of the process's group and of its ancestors for *controller*, its own first; may be empty."""
        places = self._places.get()
        return places.get(controller) or places.get("", ())

    def unified(self) -> tuple[str, ...]:
        """The folders in the hierarchy of version 2, whoever manages the controllers."""
        return self._places.get().get("", ())

    def memory_left(self) -> int | None:
        """Bytes until the tightest limit, page cache that can be dropped counted as free; None without a limit."""
        return min(self._memory_left(), default=None)

    def _memory_left(self) -> Iterator[int]:
        for folder in self.chain("memory"):
            limit = self._memory_limit(folder)
            used = self._number(folder, "memory.current", "memory.usage_in_bytes")
            if limit is not None and used is not None:
                name = "inactive_file" if folder in self.unified() else "total_inactive_file"
                cache = self._field(f"{folder}/memory.stat", name) or 0
                yield max(0, limit - used + max(0, min(cache, used)))

    def memory_limit(self) -> int | None:
        """The tightest limit in bytes; None without one."""
        limits = (self._memory_limit(folder) for folder in self.chain("memory"))
        return min((limit for limit in limits if limit is not None), default=None)

    def _memory_limit(self, folder: str) -> int | None:
        """The limit of one group; above `memory.high` a process is slowed down hard, so that it counts as one."""
        names = ("memory.max", "memory.high") if folder in self.unified() else ("memory.limit_in_bytes",)
        found = (self._files.number(f"{folder}/{name}", keep=True) for name in names)
        return min((limit for limit in found if limit is not None and 0 <= limit < _UNLIMITED), default=None)

    def swap_left(self) -> int | None:
        """Bytes of swap that the tightest group still allows; None without a limit."""
        return min(self._swap_left(), default=None)

    def _swap_left(self) -> Iterator[int]:
        for folder in self.chain("memory"):
            limit = self._number(folder, "memory.swap.max", "memory.memsw.limit_in_bytes")
            used = self._number(folder, "memory.swap.current", "memory.memsw.usage_in_bytes")
            if limit is not None and used is not None and limit < _UNLIMITED:
                yield max(0, limit - used)

    def cpu_limits(self) -> list[tuple[float, str]]:
        """Each limit, in processors' worth of time, with the folder of its group; empty without one."""
        found = ((self._cpu_limit(folder), folder) for folder in self.chain("cpu"))
        return [(limit, folder) for limit, folder in found if limit is not None]

    def _cpu_limit(self, folder: str) -> float | None:
        """CFS bandwidth of one group: kernel documentation, scheduler/sched-bwc."""
        if folder in self.unified():
            path = f"{folder}/cpu.max"
            texts = (self._files.kept(path) or "max 0").split(" ")
            quota, period = (self._files.whole(text, path) for text in (texts[0], texts[-1]))
        else:
            quota, period = (
                self._files.number(f"{folder}/cpu.cfs_{name}_us", keep=True) for name in ("quota", "period")
            )
        return quota / period if quota and period and quota > 0 and period > 0 else None

    def cpu_seconds(self, folder: str) -> float | None:
        """Processor time that the group at *folder* and its children have used, seconds; None where it is not told."""
        if folder in self.unified():
            used = self._field(f"{folder}/cpu.stat", "usage_usec")
            return None if used is None else used / 1e6
        nanos = self._files.number(f"{self._accounts(folder)}/cpuacct.usage", keep=True)
        return None if nanos is None else nanos / 1e9

    def _accounts(self, folder: str) -> str:
        """The folder that counts the time of the group at *folder*: version 1 may count in a hierarchy of its own."""
        limits, accounts = self.chain("cpu"), self.chain("cpuacct")
        above = len(limits) - limits.index(folder)
        return accounts[max(0, len(accounts) - above)] if accounts else folder

    def _number(self, folder: str, version_2: str, version_1: str) -> int | None:
        """The number in the file that has the one name or the other."""
        name = version_2 if folder in self.unified() else version_1
        return self._files.number(f"{folder}/{name}", keep=True)

    def _field(self, path: str, name: str) -> int | None:
        for line in (self._files.kept(path) or "").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return self._files.whole(value.strip(), path)
        return None

    def _find(self) -> dict[str, tuple[str, ...]]:
        """Controller -> folders; the empty name is version 2."""
        mounts = list(self._mounts())
        found: dict[str, tuple[str, ...]] = {}
        for line in (self._files.text("proc/self/cgroup") or "").splitlines():
            _, _, rest = line.partition(":")
            names, colon, path = rest.partition(":")
            controllers = frozenset(names.split(",")) if names else frozenset[str]()
            chain = self._climb(path, controllers, mounts) if colon else ()
            if chain:
                found.update(dict.fromkeys(controllers or {""}, chain))
        return found

    def _climb(self, path: str, controllers: frozenset[str], mounts: list[_Mount]) -> tuple[str, ...]:
        """The folders from the group *path* up to where its hierarchy is mounted.

        A group outside what is mounted here, as a container without its own namespace sees it, is the mount itself.
        """
        for mount in mounts:
            if bool(mount.controllers) == bool(controllers) and mount.controllers >= controllers:
                parts = _below(path, mount.root)
                folders = ["/".join([mount.point, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
                return tuple(folder for folder in folders if self._files.is_folder(folder))
        return ()

    def _mounts(self) -> Iterator[_Mount]:
        """The hierarchies, as proc_pid_mountinfo(5) lists them."""
        for line in (self._files.text("proc/self/mountinfo") or "").splitlines():
            left, _, right = line.partition(" - ")
            here, there = left.split(" "), right.split(" ")
            if len(here) < 5 or len(there) < 3 or there[0] not in {"cgroup", "cgroup2"}:
                continue
            controllers = frozenset(there[2].split(",")) - {"rw", "ro"} if there[0] == "cgroup" else frozenset[str]()
            yield _Mount(controllers=controllers, root=_plain(here[3]), point=_plain(here[4]).strip("/"))


def _below(path: str, root: str) -> list[str]:
    """The parts of *path* below *root*; none where it is not below."""
    inside = path if root == "/" else path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else ""
    parts = [part for part in inside.split("/") if part]
    return [] if ".." in parts else parts


def _plain(text: str) -> str:
    """*text* with the kernel's octal escapes, such as `\\040` for a space, undone."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
