"""What the command line prints, and its exit codes: text, JSON, tables, progress and a full-screen view.

Tables, progress and the full-screen view use rich (extra `cli`) on a terminal. Without rich, on a dumb terminal and
in a pipe the output is plain text without control codes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from enum import IntEnum
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from hybrid_llm.core.errors import BackendError, ConfigError, InvalidRequest, RoutingError, SecurityError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.log_lines import JSONLines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_CONTROLS: Final = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in {"\n", "\t"}
}
_line_is_open = False
"""Whether an answer on the terminal has begun a line and not ended it."""
_RESIZE_POLL_S: Final = 0.1
_ENDING_SIGNALS: Final = (signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))


class Exit(IntEnum):
    """The exit codes of `hybrid-llm`."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    ROUTING = 4
    BACKEND = 5
    SECURITY = 6
    VIOLATED = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANING: Final = {
    Exit.OK: "success",
    Exit.FAILURE: "another failure: a test or check fails, the disk is full",
    Exit.USAGE: "the command line or the request is invalid",
    Exit.CONFIG: "a configuration, policy, model folder or certificate is invalid",
    Exit.ROUTING: "no backend is eligible, or all of them failed",
    Exit.BACKEND: "the backend failed, or the deadline was exceeded",
    Exit.SECURITY: "a security check failed: untrusted peer, modified data, or text that must not leave the device",
    Exit.VIOLATED: "`policy verify` found a violation",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output closed the pipe",
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
    """The exit code of *error*'s family; `Exit.FAILURE` if the family has none."""
    return next((code for family, code in _FAMILIES if isinstance(error, family)), Exit.FAILURE)


def printable(text: str) -> str:
    """*text* with control characters escaped: model output must not control the terminal."""
    return text.translate(_CONTROLS)


def write(text: str) -> None:
    """Print a chunk of an answer at once: escaped on a terminal, unchanged for a program."""
    global _line_is_open  # there is one standard output
    on_terminal = bool(sys.stdout) and sys.stdout.isatty()
    print(printable(text) if on_terminal else text, end="", flush=True)
    if text:
        _line_is_open = on_terminal and not text.endswith("\n")


def end_line() -> None:
    """End the line of an answer; on a terminal only if a message has not ended it."""
    if _line_is_open or not (sys.stdout and sys.stdout.isatty()):
        write("\n")


def note(text: str) -> None:
    """Print a message to standard error, if that takes it: the exit code tells what happened all the same.

    On a terminal it begins a line of its own, also in the middle of an answer.
    """
    with suppress(OSError):
        if _line_is_open and sys.stderr and sys.stderr.isatty():
            write("\n")
        print(text, file=sys.stderr, flush=True)


def print_error(error: BaseException) -> None:
    """Print an error message to standard error."""
    note(f"hybrid-llm: {printable(str(error)) or type(error).__name__}")


def print_json(value: object) -> None:
    """Print *value*, made of records and plain types, as one JSON document."""
    print(json.dumps(jsonable(value), indent=2))


def output(document: object, text: Iterable[str], *, as_json: bool) -> None:
    """Print *document* as JSON, else the lines of *text* with control characters escaped."""
    if as_json:
        print_json(document)
    else:
        print(printable("\n".join(text)))


class _NoteHandler(logging.Handler):
    """Prints records as notes, to what standard error is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"hybrid-llm: {printable(self.format(record))}")


@contextmanager
def shown_log(*, verbose: bool) -> Iterator[None]:
    """Print the library's log to standard error: its warnings, with *verbose* also each request and event."""
    logger, handler = logging.getLogger("hybrid_llm"), _NoteHandler()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that time: a server replaces it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # in place of the attribute
        return sys.stderr


def log_to_stderr(level: int, *, as_json: bool = False) -> None:
    """Log what the library does from *level* on, and warnings of anything else, to standard error: for servers.

    *as_json*: one JSON object a line.
    """
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, handlers=[_StandardError()])
    if as_json:
        logging.captureWarnings(True)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JSONLines())
    logging.getLogger("hybrid_llm").setLevel(level)


def record(value: object) -> dict[str, object]:
    """The fields of a record, one level deep."""
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is not a record")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def console_for(stream: TextIO | None) -> Console | None:
    """A rich console on *stream*, or None where the output stays plain."""
    # isatty first: FORCE_COLOR must not put control codes into a pipe.
    if stream is None or not stream.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    console = Console(file=stream, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    return None if console.is_dumb_terminal else console


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Collection[str] = ()) -> None:
    """Print a table to standard output; the columns in *numbers* are right-aligned."""
    cells = [[printable(cell) for cell in row] for row in rows]
    console = console_for(sys.stdout)
    if console is None:
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        for row in (columns, ["-" * width for width in widths], *cells):
            placed = zip(row, widths, columns, strict=True)
            print("  ".join(cell.rjust(n) if name in numbers else cell.ljust(n) for cell, n, name in placed).rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        shown.add_column(Text(name), justify="right" if name in numbers else "left")
    for row in cells:
        shown.add_row(*map(Text, row))
    console.print(shown)


class Progress:
    """One line on standard error: the current phase, a bar if the share is known, and the elapsed time.

    On a terminal the line is live and erased at the end; elsewhere `phase` prints one plain line, for logs.
    """

    def __init__(self, label: str, *, stream: TextIO | None = None) -> None:
        self._label = " ".join(printable(label).split())
        self._stream = stream or sys.stderr
        self._console = console_for(self._stream)
        self._quarter = "", 0
        if self._console is not None:
            from rich import progress
            from rich.table import Column

            text = progress.TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1))
            self._with_bar = (text, progress.BarColumn(24), progress.TaskProgressColumn(), progress.TimeElapsedColumn())
            self._bar = progress.Progress(
                text,
                progress.TimeElapsedColumn(),
                console=self._console,
                transient=True,
                expand=True,
                # Redirected, standard output would be printed to the console's stream, standard error.
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task(self._label, total=None)

    @property
    def live(self) -> bool:
        """Whether it is a line of a terminal that is redrawn."""
        return self._console is not None

    def step(self, text: str, share: float) -> None:
        """Show that *share*, from 0 to 1, of the step *text* is done: a bar, or a line for each quarter."""
        if self.live:
            self.phase(text)
            self.update(share)
            return
        quarter = text, int(4 * min(1.0, max(0.0, share)))
        if quarter != self._quarter:
            self._quarter = quarter
            self.phase(f"{text}, {25 * quarter[1]} %" if quarter[1] else text)

    def phase(self, text: str, *, live_only: bool = False) -> None:
        """Show what is being done now; with *live_only*, only where the line is live."""
        if self._console is not None:
            self._show(description=f"{self._label}: {text}")
        elif not live_only:
            print(f"{self._label}: {text}", file=self._stream, flush=True)

    def update(self, share: float) -> None:
        """Show that *share*, from 0 to 1, is done."""
        if self._console is not None:
            self._bar.columns = self._with_bar
            self._show(total=1.0, completed=min(1.0, max(0.0, share)))

    def _show(self, **values: Any) -> None:
        self._bar.update(self._task, **values)
        self._bar.start()
        # rich hides the cursor; a process that is killed could not show it again.
        self._bar.console.show_cursor(True)

    def clear(self) -> None:
        """Erase the line, so that something else can be printed."""
        if self._console is not None:
            self._bar.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()


class Screen:
    """The whole terminal as a context manager: redrawn by `draw`, restored at the end, on SIGTERM and SIGHUP too."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows of the window."""
        # Not `console.size`: COLUMNS and LINES in the environment do not follow the window.
        try:
            size = os.get_terminal_size(self._console.file.fileno())
        except (OSError, ValueError):
            return self._console.width, self._console.height
        return size.columns, size.lines

    def draw(self, view: RenderableType) -> None:
        """Show *view*, cropped to the window."""
        self._console.size = self.size
        self._live.update(view, refresh=True)

    def wait(self, seconds: float) -> None:
        """Wait for *seconds* or until the window is resized."""
        until = time.monotonic() + seconds
        while self.size == tuple(self._console.size) and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _RESIZE_POLL_S))

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, _exit_on_signal) for number in _ENDING_SIGNALS}
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._live.stop()
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
