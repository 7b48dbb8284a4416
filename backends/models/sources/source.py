"""What every source of models has: its name, and how it is fetched into a folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from hybrid_llm.core.errors import HybridLLMError, SecurityError

Report = Callable[[str, float], None]
"""Called with the current step, and the share of it that is done: 0 to 1."""
SHA256: Final = re.compile(r"[0-9a-f]{64}")
BLOCK: Final = 1 << 20
_PARTS: Final = 200
"""Reports of one step: more are not seen."""


class FetchFailed(HybridLLMError):
    """A source could not be fetched; the message says why, and how to do without a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is known of a download before it begins.

    Attributes:
        sha256: of the file, in hex; empty where it is taken from the first download.
        revision: the commit that an earlier download had; empty for the one that the source names.
        file: which file of several, as a pattern such as `*q4_k_m.gguf`; case does not matter.
        size: bytes of the download, as far as they are known.
        copy: how to add the same model from a file, for messages.
    """

    sha256: str = ""
    revision: str = ""
    file: str = ""
    size: int = 0
    copy: str = "hybrid-llm models add FILE --name NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was fetched: a file or a folder; its SHA-256 (of a folder, that of its list of files), and its revision."""

    path: Path
    sha256: str
    revision: str = ""


class Source(Protocol):
    """One source."""

    @property
    def text(self) -> str:
        """The source as it is written, without credentials."""

    @property
    def suggestion(self) -> str:
        """A model name made of it."""

    @property
    def remote(self) -> bool:
        """Whether it is on a network."""

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:
        """Fetch it into *folder*, which may hold the beginning of an earlier download.

        Raises:
            FetchFailed: it cannot be reached, or is not there.
            SecurityError: it is another file than the hash of *wanted*.
            NoSpace: the disk has no room.
        """


def check_sha256(found: str, expected: str, what: str) -> None:
    """Compare a hash with what is *expected*, if anything is.

    Raises:
        SecurityError: it differs.
    """
    if expected and found != expected:
        message = (
            f"{what} has the SHA-256 {found}, expected {expected}: it is damaged or another file; nothing was added"
        )
        raise SecurityError(f"{message} (--sha256 {found} accepts it, if you know why it changed)")


def digest(path: Path, report: Report) -> str:
    """The SHA-256 of a file, with progress."""
    size, done, state = max(1, path.stat().st_size), 0, hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            state.update(block)
            done += len(block)
            report("checking its SHA-256", done / size)
    return state.hexdigest()


def digest_folder(folder: Path, report: Report) -> str:
    """The SHA-256 of the names and hashes of all files in *folder*."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {digest(path, report)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Reporter:
    """Passes progress on, a few hundred times at most."""

    def __init__(self, report: Report, step: str, total: int, done: int = 0) -> None:
        self._report, self._step, self._total = report, step, total
        self.done = done
        self._next = 0

    def add(self, count: int) -> None:
        """*count* more bytes are done."""
        self.done += count
        if self._total and self.done >= self._next:
            self._next = self.done + self._total // _PARTS
            self._report(self._step, min(1.0, self.done / self._total))
