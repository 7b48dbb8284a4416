"""A hook that records decisions, one line of JSON each, for `policy diff` and `policy simulate`.

A request only puts its event into a queue; a separate thread writes it. Whatever the disk does, no request waits or
fails: a line that cannot be written is dropped and counted. A line holds metadata and signals, never a text of a
request; `lab.recordings` reads it.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakMethod

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import DISPLAY_ONLY, Signals
from hybrid_llm.core.threads import release_dropped, started
from hybrid_llm.router.observability.hooks import ClientStatus, RequestEvent

_log = logging.getLogger("hybrid_llm.record")
VERSION: Final = 1
_QUEUE_SIZE: Final = 4096
"""Events that may wait for the disk; further ones are dropped."""
_CLOSE_S: Final = 5.0
REQUEST_KEYS: Final = {
    "id": "request_id",
    "task": "task",
    "tenant": "tenant",
    "prompt_tokens": "prompt_tokens",
    "max_tokens": "max_tokens",
    "deadline": "deadline",
    "messages": "message_count",
    "tools": "tool_count",
    "schema": "has_schema",
}
"""The keys of `request`, and the fields of `RequestMetadata` that they hold; `tags` is its `privacy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """The policy that decided, and its rule."""

    policy: str = ""
    digest: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the request ended. *error* is the name of an error class, empty if the answer is complete."""

    backend: str = ""
    error: str = ""
    completion_tokens: int = 0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A finished request. *at* is the Unix time of its start, seconds; *position* is `path:line` if it was read."""

    at: float
    metadata: RequestMetadata
    signals: Signals
    order: tuple[str, ...] = ()
    decided: Decided = field(default_factory=Decided)
    outcome: Outcome = field(default_factory=Outcome)
    position: str = ""


def recording_of(event: RequestEvent) -> Recording:
    """The recording of *event*."""
    decision, timings = event.decision, event.timings
    return Recording(
        at=time.time() - (time.monotonic() - event.metadata.created),
        metadata=event.metadata,
        signals=event.signals,
        order=decision.order,
        decided=Decided(policy=decision.policy, digest=decision.digest, rule=decision.rule),
        outcome=Outcome(
            backend=event.backend,
            error=event.error,
            completion_tokens=event.usage.completion_tokens,
            ttft_ms=timings.ttft_ms,
            total_ms=timings.total_ms,
        ),
    )


def dump(recording: Recording) -> str:
    """*recording* as one line, without its newline."""
    metadata, signals = recording.metadata, recording.signals
    line = {
        "v": VERSION,
        "at": round(recording.at, 3),
        "request": {**_plain(metadata, REQUEST_KEYS), "tags": sorted(metadata.privacy)},
        "signals": {
            "device": _plain(signals.device),
            "network": _plain(signals.network),
            "budget": _plain(signals.budget),
            "backends": [_plain(state) for state in signals.backends.values()],
        },
        "decision": {**_plain(recording.decided), "order": recording.order},
        "outcome": _plain(recording.outcome),
    }
    return json.dumps(line, separators=(",", ":"))


def _plain(record: object, keys: Mapping[str, str] | None = None) -> dict[str, object]:
    """The fields of a record by their keys in JSON, without those that are None; NaN and infinity become texts."""
    keys = keys or keys_of(type(record))  # type: ignore[arg-type]  # every class is hashable
    values = {key: getattr(record, name) for key, name in keys.items()}
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
        if value is not None
    }


@cache
def keys_of(record: Any) -> Mapping[str, str]:
    """The keys of a record's class in JSON, and the fields that they hold: all but those for people."""
    return {field.name: field.name for field in fields(record) if field.name not in DISPLAY_ONLY}


class DecisionRecorder:
    """Records every decision in the file at *path*: metadata, signals, order, outcome; never a text of a request.

    `HybridLLM(..., hooks=[DecisionRecorder(path)])`: one recorder serves one client, and each process needs its own
    file, which only its owner can read. The thread starts with the first request.

    Args:
        path: The file; its folder must exist.
        max_bytes: Before the file grows beyond this, it is renamed to `path.1` and a new one is started.
        keep: The number of older files to keep.

    Raises:
        ConfigError: a limit is not positive, or the folder does not exist.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 64 * 1024 * 1024, keep: int = 2) -> None:
        if max_bytes < 1 or keep < 0:
            raise ConfigError("a recorder needs max_bytes of at least 1 and keep of at least 0", path=str(path))
        self._file = _Rotating(path=Path(path), max_bytes=max_bytes, keep=keep)
        if not self._file.path.parent.is_dir():
            raise ConfigError(f"the folder of {path} does not exist", path=str(path))
        self._waiting: queue.Queue[RequestEvent | None] = queue.Queue(_QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._at_exit = partial(_close_weakly, WeakMethod(self.close))
        self.dropped = 0
        """Lines that were not written because the disk failed or was too slow."""

    def __call__(self, event: RequestEvent) -> None:
        """Queue *event*; never waits."""
        if self._thread is None:
            self._start()
        try:
            self._waiting.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                work = (self._waiting, self._file, WeakMethod(self._drop))
                self._thread = started(_write, *work, name="hybrid-llm-record")
                atexit.register(self._at_exit)

    def __del__(self) -> None:
        if getattr(self, "_thread", None) is not None and not self._closed:
            atexit.unregister(self._at_exit)
            release_dropped(self, "DecisionRecorder", partial(self._waiting.put, None))

    def _drop(self, error: Exception) -> None:
        """Log only the first failure: a full disk must not fill a log."""
        if self.dropped == 0:
            _log.warning("a decision could not be recorded in %s: %s", self._file.path, type(error).__name__)
        self.dropped += 1

    def attach(self, status: Callable[[], ClientStatus]) -> None:
        """Do nothing: the thread starts with the first request."""

    def detach(self, status: Callable[[], ClientStatus]) -> None:  # noqa: ARG002  # the Protocol's signature
        """Close the file: the client is closed."""
        self.close()

    def close(self) -> None:
        """Write what is queued, for at most five seconds, and close the file. Idempotent."""
        with self._lock:
            thread, self._closed = self._thread, True
        if thread is None or not thread.is_alive():
            return
        try:
            self._waiting.put(None, timeout=_CLOSE_S)
        except queue.Full:
            return
        thread.join(timeout=_CLOSE_S)
        atexit.unregister(self._at_exit)


def _write(
    waiting: queue.Queue[RequestEvent | None], file: _Rotating, drop: WeakMethod[Callable[[Exception], None]]
) -> None:
    """Write events until there is None; the thread of a recorder does not keep it alive."""
    while (event := waiting.get()) is not None:
        try:
            file.write(f"{dump(recording_of(event))}\n".encode())
        except Exception as error:  # noqa: BLE001  # whatever the disk does, requests go on
            if (dropped := drop()) is not None:
                dropped(error)
                del dropped
    file.close()


def _close_weakly(close: WeakMethod[Callable[[], None]]) -> None:
    if (closing := close()) is not None:
        closing()


@dataclass(slots=True, kw_only=True)
class _Rotating:
    """Appends whole lines to a file of bounded size; a line that was written in part is removed."""

    path: Path
    max_bytes: int
    keep: int
    _descriptor: int = field(default=-1)
    _size: int = 0

    def write(self, line: bytes) -> None:
        """Append *line*. Raises OSError if it could not be written whole."""
        if self._descriptor >= 0 and self._size + len(line) > self.max_bytes:
            self._rotate()
        if self._descriptor < 0:
            self._open()
        try:
            written = os.write(self._descriptor, line)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        if written < len(line):
            os.ftruncate(self._descriptor, self._size)
            raise OSError("the line was only written in part")
        self._size += written

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        if self._size >= self.max_bytes:
            self._rotate()
            self._open()

    def _rotate(self) -> None:
        """Rename `path` to `path.1`, that to `path.2`, and so on; the oldest is overwritten."""
        self.close()
        for number in range(self.keep, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self.keep == 0:
            self.path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
