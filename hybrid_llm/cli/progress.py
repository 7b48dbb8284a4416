"""A progress line on standard error for what takes long; silent where nobody watches. It measures nothing itself."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Final, Self, TextIO

__all__ = ["Progress", "bar"]

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
