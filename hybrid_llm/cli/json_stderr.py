"""Makes every line on standard error a JSON object, whoever writes it: notes, warnings, C libraries, child processes.

What is one already passes unchanged. C libraries write while they hold locks, so the reader of what they write must
never wait for this process: it is a process of its own, this file, run as a program without our packages.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final

_END_S: Final = 2.0
_END: Final = b"\0end"
"""What this process writes last: others may still hold the pipe."""
_MOST: Final = 1 << 16
"""Bytes of a line; a longer one becomes several objects."""
_ABSEIL: Final = re.compile(r"[IWEF](?=[A-Z0-9]*\d{4} \d\d:\d\d:\d\d)")
"""How gRPC's core begins a line."""
_LEVELS: Final = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "CRITICAL"}
_ERROR: Final = "hybrid-llm: "
"""How the command line begins the message of an error."""


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether the command line *words* says `--log-format json`."""
    return any(
        word == "--log-format=json" or words[at : at + 2] == ["--log-format", "json"] for at, word in enumerate(words)
    )


@contextmanager
def json_stderr() -> Iterator[None]:
    """Until the end of the block, every line that this process and its children write is one; an error too."""
    plain = os.dup(2)
    source, sink = os.pipe()
    program = [sys.executable, "-I", "-S", __file__]
    reader = subprocess.Popen(program, stdin=source, stdout=subprocess.DEVNULL)  # noqa: S603 - our own file
    os.dup2(sink, 2)
    os.close(source)
    os.close(sink)
    # A stream of its own: what Python has opened may be a file, whose position a pipe does not have.
    old, sys.stderr = sys.stderr, open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_unraisable
    try:
        yield
    except Exception as error:  # noqa: BLE001  # Python would print its traceback once the block is over
        _log(error)
        raise SystemExit(1) from None
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            os.write(2, b"\n" + _END + b"\n")
        sys.stderr = old
        os.dup2(plain, 2)
        os.close(plain)
        with suppress(subprocess.TimeoutExpired):
            reader.wait(_END_S)


def _log_of_thread(args: threading.ExceptHookArgs) -> None:
    _log(args.exc_value)


def _log_unraisable(args: sys.UnraisableHookArgs) -> None:
    _log(args.exc_value)


def _log(error: BaseException | None) -> None:
    import logging

    from hybrid_llm.core.log_lines import JSONLines

    values: dict[str, object] = {"name": "hybrid_llm", "levelname": "CRITICAL", "msg": "an error that nobody expected"}
    if error is not None:
        values["exc_info"] = (type(error), error, error.__traceback__)
    print(JSONLines().format(logging.makeLogRecord(values)), file=sys.stderr, flush=True)


def objects(data: bytes) -> Iterator[str]:
    """Each line of *data* as a JSON object."""
    for line in data.decode("utf-8", "replace").replace("\r", "\n").split("\n"):
        if line.strip():
            yield line if _is_object(line) else json.dumps(_wrapped(line), ensure_ascii=False)


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _wrapped(line: str) -> dict[str, str]:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if line.startswith(_ERROR):
        return {"time": at, "level": "ERROR", "logger": "hybrid_llm", "message": line.removeprefix(_ERROR)}
    letter = _ABSEIL.match(line)
    return {"time": at, "level": _LEVELS[letter[0]] if letter else "INFO", "logger": "stderr", "message": line}


def main() -> None:
    """Read standard input to its end, or to `_END`, and write each line to standard error as an object."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they reach the whole group, and are the server's business
        signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)
    for line in _lines(0):
        if line == _END:
            return
        _write(line)


def _lines(source: int) -> Iterator[bytes]:
    rest = b""
    while data := os.read(source, _MOST):
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
        if len(rest) > _MOST:
            yield rest
            rest = b""
    yield rest


def _write(data: bytes) -> None:
    for line in objects(data):
        with suppress(OSError):
            os.write(2, line.encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    main()
