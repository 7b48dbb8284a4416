"""The exit codes of `hybrid-llm`, and the one table from the library's errors to them. It prints nothing.

How the commands print: answers as they come, JSON for machines, errors as one message. No command lives here.

A progress line on standard error for what takes long; silent where nobody watches. It measures nothing itself.

A whole terminal that is drawn over and over, and left as it was found: plain ANSI (ECMA-48, xterm), lines only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, Self, TextIO

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import BackendError, ConfigError, InvalidRequest, RoutingError, SecurityError
from hybrid_llm.core.generation import Generation


class Exit(IntEnum):
    """How a command ended, as a shell or a script sees it."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    ROUTING = 4
    BACKEND = 5
    SECURITY = 6
    UNPROVED = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANING: Final = {
    Exit.OK: "done",
    Exit.FAILURE: "another failure: a test or check that fails, a disk that is full",
    Exit.USAGE: "the command line or the request is wrong",
    Exit.CONFIG: "a configuration, policy, model folder or certificate is wrong",
    Exit.ROUTING: "no backend may or could answer",
    Exit.BACKEND: "the backend failed, or the deadline is over",
    Exit.SECURITY: "trust is broken: a wrong peer, changed bytes, or text that may not leave",
    Exit.UNPROVED: "a promise of a policy is broken, as `policy prove` found",
    Exit.INTERRUPTED: "stopped with Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output went away",
}
"""What each code means, for `--help` and the documentation."""

_FAMILIES: Final[tuple[tuple[type[Exception], Exit], ...]] = (
    (InvalidRequest, Exit.USAGE),
    (ConfigError, Exit.CONFIG),
    (RoutingError, Exit.ROUTING),
    (BackendError, Exit.BACKEND),
    (SecurityError, Exit.SECURITY),
)


def exit_for(error: Exception) -> Exit:
    """The code of *error*'s family; `Exit.FAILURE` where it has none of its own."""
    return next((code for family, code in _FAMILIES if isinstance(error, family)), Exit.FAILURE)


_KEEP = frozenset("\n\t")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEEP}


def printable(text: str) -> str:
    """*text* with control characters made visible: an answer must not command the reader's terminal."""
    return text.translate(_CONTROLS)


def write(text: str) -> None:
    """Show a piece of an answer at once: raw where a program reads it, `printable` on a terminal."""
    print(printable(text) if sys.stdout and sys.stdout.isatty() else text, end="", flush=True)


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_error(error: BaseException) -> None:
    """Say what went wrong, once and on standard error."""
    note(f"hybrid-llm: {printable(str(error)) or type(error).__name__}")


def print_json(value: object) -> None:
    """Print *value*, of records and plain types, as one JSON document."""
    print(json.dumps(value, indent=2, default=_plain))


def record(value: object) -> dict[str, object]:
    """The fields of a frozen record, one level deep, for `print_json`."""
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is not a record")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _plain(value: object) -> object:
    if is_dataclass(value):
        return record(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    return str(value)


def decision_record(decision: Decision) -> dict[str, object]:
    """A decision as `--json` shows it, with its trace."""
    return {
        "order": decision.order,
        "excluded": dict(decision.excluded),
        "policy": decision.policy,
        "digest": decision.digest,
        "rule": decision.rule,
        "because": decision.because,
        "tags": decision.tags,
        "trace": [{**record(entry), "values": dict(entry.values)} for entry in decision.trace],
    }


def generation_record(generation: Generation) -> dict[str, object]:
    """An answer as `--json` shows it."""
    shown = record(generation)
    shown["usage"] = {**record(generation.usage), "total_tokens": generation.usage.total_tokens}
    shown["decision"] = decision_record(generation.decision)
    return shown


_WIDTH: Final = 24
_EVERY_S: Final = 0.1
_TICK_S: Final = 0.5


def bar(share: float, width: int) -> str:
    """*width* signs, of which *share*, from 0 to 1, are filled."""
    filled = round(max(0.0, min(1.0, share)) * width)
    return "#" * filled + "." * (width - filled)


class Progress:
    """One line that is written over and over: what is done now, a bar where the share is known, and the time.

    As a context manager it also ticks while its caller is busy, and takes the line away at the end. On anything but a
    terminal `update` prints nothing, and `phase` one plain line, for logs.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._began = time.monotonic()
        self._drawn = float("-inf")
        self._shown = False
        self._phase = ""
        self._bar = ""
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="hybrid-llm-progress", daemon=True)

    @property
    def live(self) -> bool:
        """Whether somebody watches: standard error is a terminal."""
        return self._live

    def phase(self, text: str) -> None:
        """Say what is being done now."""
        self._phase = f": {text}"
        if self._live:
            self._draw()
        else:
            print(f"{self._label}{self._phase}", file=self._stream, flush=True)

    def update(self, done: float, total: float, unit: str = "") -> None:
        """Show *done* of *total*, in numbers where they have a *unit*; at most ten times a second, and at the end."""
        if not self._live or total <= 0:
            return
        share = min(1.0, done / total)
        numbers = f" {done:,.0f}/{total:,.0f} {unit}" if unit else ""
        self._bar = f" [{bar(share, _WIDTH)}] {share:.0%}{numbers}"
        if share >= 1 or time.monotonic() - self._drawn >= _EVERY_S:
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            self._shown = True
            self._write()

    def _write(self) -> None:
        self._drawn = time.monotonic()
        line = f"{self._label}{self._phase}{self._bar} {self._drawn - self._began:.0f} s"
        self._stream.write(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}")
        self._stream.flush()

    def _tick(self) -> None:
        while not self._over.wait(_TICK_S):
            with self._lock:
                if self._shown:
                    self._write()

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        with self._lock:
            if self._shown:
                self._shown = False
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def __enter__(self) -> Self:
        if self._live:
            self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._ticker.is_alive():
            self._ticker.join()
        self.clear()


_ENTER: Final = "\x1b[?1049h\x1b[?25l"
"""The other screen, so that what stood there comes back; no cursor."""
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_LOOK_S: Final = 0.1


class Screen:
    """A context manager; Ctrl-C, SIGTERM and a window that closes leave the terminal clean."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_for = self.size
        self._before: dict[signal.Signals, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows, now; the environment's `COLUMNS` and `LINES` do not follow the window."""
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            size = shutil.get_terminal_size()
        return size.columns, size.lines

    def draw(self, lines: list[str]) -> None:
        """Show *lines* from the top; each must fit the width, and all the height."""
        self._drawn_for = self.size
        body = "\r\n".join(f"{line}\x1b[K" for line in lines)
        self._stream.write(f"\x1b[H{body}\x1b[J")
        self._stream.flush()

    def wait(self, seconds: float) -> None:
        """Wait, but not after the window has changed its size."""
        until = time.monotonic() + seconds
        while self.size == self._drawn_for and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_S))

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ())):
            self._before[number] = signal.signal(number, _end)
        self._stream.write(_ENTER)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._stream.write(_LEAVE)
            self._stream.flush()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
