"""Checks every field of a request before an engine sees it: one bad number must not cost the others their answers.

The messages of its errors name fields and limits, and never quote what was sent.

Decides whether one more request is let in: overload is an answer at once, not a slow death.

A burst may fill the whole queue. A queue that stays is another matter: it makes every answer late and none more. So
the room for those who wait shrinks while they wait for longer than an answer takes, and grows again once a slot is
free (after Nichols and Jacobson, *Controlling Queue Delay*, 2012; additive increase, multiplicative decrease).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from hybrid_llm.backends.wire.messages import request_from_wire
from hybrid_llm.core.errors import BackendOverloaded, RequestRejected
from hybrid_llm.core.request import Request
from hybrid_llm.protos import hybrid_pb2 as pb

NODE = "node"
"""The name by which a node's own errors call it; the client puts its own name in its place."""

_MAX_MESSAGES = 4096
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_TAGS = 64
_MAX_NAME_CHARS = 128
_MAX_TOKENS = 1_000_000
_MAX_TOP_K = 1_000_000


def check_request(message: pb.GenerateRequest, *, deadline: float) -> Request:
    """Return a request that is within all limits; its clock starts now and has *deadline* seconds.

    Raises:
        RequestRejected: `invalid_argument` with the first fault; `unsupported` for what this version cannot do.
    """
    fault = next(_faults(message), None)
    if fault is not None:
        raise RequestRejected(fault, backend=NODE, reason="invalid_argument")
    if message.tools:
        raise RequestRejected("this node does not take tools", backend=NODE, reason="unsupported")
    return request_from_wire(message, deadline=deadline)


def _faults(message: pb.GenerateRequest) -> Iterator[str]:
    yield from _conversation_faults(message)
    yield from _number_faults(message)
    yield from _sampling_faults(message.sampling)
    yield from _name_faults(message)
    yield from _schema_faults(message)


def _conversation_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not 0 < len(message.messages) <= _MAX_MESSAGES:
        yield f"messages: between 1 and {_MAX_MESSAGES} are taken, not {len(message.messages)}"
    if any(m.role not in pb.Role.values() or m.role == pb.ROLE_UNSPECIFIED for m in message.messages):
        yield "messages: a role is unknown; system, user, assistant and tool are taken"
    if not any(m.content and not m.content.isspace() for m in message.messages):
        yield "messages: the prompt is empty"


def _number_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not 0 < message.max_tokens <= _MAX_TOKENS:
        yield f"max_tokens: must be between 1 and {_MAX_TOKENS}"
    if not 0 <= message.deadline_seconds < math.inf:
        yield "deadline_seconds: must be a finite number, 0 or more"


def _sampling_faults(sampling: pb.Sampling) -> Iterator[str]:
    if not 0 <= sampling.temperature <= 100:
        yield "sampling.temperature: must be between 0 and 100"
    if sampling.HasField("top_p") and not 0 < sampling.top_p <= 1:
        yield "sampling.top_p: must be above 0 and at most 1"
    if not 0 <= sampling.top_k <= _MAX_TOP_K:
        yield f"sampling.top_k: must be between 0 and {_MAX_TOP_K}"
    if not 0 <= sampling.min_p <= 1:
        yield "sampling.min_p: must be between 0 and 1"
    if sampling.HasField("repetition_penalty") and not 0 < sampling.repetition_penalty <= 100:
        yield "sampling.repetition_penalty: must be above 0 and at most 100"
    if len(sampling.stop) > _MAX_STOPS or any(not 0 < len(text) <= _MAX_STOP_CHARS for text in sampling.stop):
        yield f"sampling.stop: at most {_MAX_STOPS} texts of 1 to {_MAX_STOP_CHARS} characters are taken"


def _name_faults(message: pb.GenerateRequest) -> Iterator[str]:
    for field in ("task", "session_id", "tenant", "request_id"):
        if not _is_name(getattr(message, field)):
            yield f"{field}: at most {_MAX_NAME_CHARS} printable characters are taken"
    if len(message.tags) > _MAX_TAGS or not all(tag and _is_name(tag) for tag in message.tags):
        yield f"tags: at most {_MAX_TAGS} of 1 to {_MAX_NAME_CHARS} printable characters are taken"


def _is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME_CHARS and (not text or text.isprintable())


def _schema_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not message.HasField("output_schema"):
        return
    try:
        schema = json.loads(message.output_schema)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict | bool):
        yield "output_schema: must be a JSON Schema as JSON text"


_FIRST_GUESS_S = 1.0
_LEAST_WAIT_S = 0.05
"""To wait for less than this is no sign of overload, seconds."""
_WEIGHT = 0.2
_SHRINK = 0.7


class Admission:
    """Counts requests in flight, the ones that wait in the engine included. Not for threads: one event loop's own."""

    def __init__(self, *, max_queue: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_queue = max_queue
        self._clock = clock
        self._room = float(max_queue)
        self._in_flight = 0
        self._work_s = 0.0
        self._shrunk = float("-inf")

    @property
    def in_flight(self) -> int:
        """Requests that were let in and have not ended."""
        return self._in_flight

    @contextmanager
    def place(self, slots: int, remaining: float) -> Generator[None, None, None]:
        """Hold a place for one request while *slots* run at a time; *remaining* is what it has left, seconds.

        Raises:
            BackendOverloaded: slots and queue are full, or its time would pass in the queue; `retry_after` is when a
                place should be free.
        """
        limit = slots + max(int(self._room), min(self._max_queue, slots // 2))
        # Each request takes a slot for a while: one of them ends every duration / slots.
        each_s = self._work_s / max(slots, 1)
        if self._in_flight < slots:
            self._room = min(self._max_queue, self._room + 1.0)
        if self._in_flight >= limit or (self._in_flight - slots + 1) * each_s > remaining:
            raise self._overloaded(slots, each_s)
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    def _overloaded(self, slots: int, each_s: float) -> BackendOverloaded:
        retry_after = round(max(each_s or _FIRST_GUESS_S / max(slots, 1), 0.05), 3)
        text = f"the node is full: {self._in_flight} requests are running or waiting"
        return BackendOverloaded(text, backend=NODE, retry_after=retry_after)

    def took(self, waited_s: float, work_s: float) -> None:
        """Learn from a request that is over: how long it waited for a slot, and then held it."""
        self._work_s += (_WEIGHT if self._work_s else 1.0) * (work_s - self._work_s)
        if waited_s > max(self._work_s, _LEAST_WAIT_S):
            self._shrink()

    def expired(self) -> None:
        """The time of a request passed while it waited for a slot."""
        self._shrink()

    def _shrink(self) -> None:
        """Once in the time of an answer: those that are over now were let in before the last time."""
        if self._clock() - self._shrunk >= self._work_s / 4:
            self._room, self._shrunk = self._room * _SHRINK, self._clock()
