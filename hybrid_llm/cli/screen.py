"""A whole terminal that is drawn over and over, and left as it was found: plain ANSI (ECMA-48, xterm), lines only."""

from __future__ import annotations

import os
import shutil
import signal
import time
from types import FrameType, TracebackType
from typing import Any, Final, Self, TextIO

__all__ = ["Screen"]

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
