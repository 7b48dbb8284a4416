"""One request on the node: its fields are checked, it is admitted or rejected, and its answer detokenised.

Error messages name fields and limits and never quote the request.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from typing import Final

from hybrid_llm.backends.calls.stream import AnswerStream, Delta, MalformedCall, malformed
from hybrid_llm.backends.node.engine import Engine, EngineDied, EngineOutput, EngineRequest, FaultCode
from hybrid_llm.backends.node.tool_faults import tool_faults
from hybrid_llm.backends.wire.messages import request_from_wire
from hybrid_llm.backends.wire.vocabulary import known
from hybrid_llm.core.errors import (
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    RequestRejected,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.limits import LOGPROBS, MAX_TOKENS, NAME_CHARACTERS, STOP_CHARACTERS, STOP_TEXTS, RequestLimits
from hybrid_llm.core.request import Request
from hybrid_llm.core.threads import Owned
from hybrid_llm.protos import hybrid_pb2 as pb

_log = logging.getLogger(__name__)
NODE: Final = "node"
"""The backend's name in the node's own errors; clients replace it by the name of their backend."""

_MAX_MESSAGES: Final = RequestLimits().messages
_MAX_TAGS: Final = 64

_FIRST_GUESS_S: Final = 1.0
"""Assumed duration of an answer until one has been measured, seconds."""
_LEAST_WAIT_S: Final = 0.05
"""Shorter waits for a slot are no sign of overload, seconds."""
_WEIGHT: Final = 0.2
"""Weight of the latest answer in the moving average of durations."""
_SHRINK: Final = 0.7
_MOMENT_S: Final = 1.0
"""For so long the node counts as crowded after it refused a request, seconds."""

_MOST_SCORED: Final = 256
"""Tokens with scores in one chunk: more, which are merged for a slow reader, may not fit into a message."""

_FAULTS: Final[dict[FaultCode, Callable[..., BackendError]]] = {
    "rejected": partial(RequestRejected, reason="unsupported"),
    "overloaded": BackendOverloaded,
    "deadline": DeadlineExceeded,
    "internal": partial(BackendUnavailable, reason="failed"),
}
"""The error that the client gets for a fault of the engine."""


def unexpected(error: BaseException, peer: str) -> BackendUnavailable:
    """Return what the client at *peer* may see of *error*, which the node does not expect, and log its class and line.

    Its text may quote the request.
    """
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else "an unknown line"
    name = type(error).__name__
    _log.error("a call of %s failed with %s at %s", peer, name, where)
    return BackendUnavailable(f"the node failed on this request ({name})", backend=NODE, reason="failed")


def check_request(message: pb.GenerateRequest, *, deadline: float) -> Request:
    """Return *message* as a request within all limits; its *deadline* in seconds starts now.

    Raises:
        RequestRejected: `invalid_argument` with the first fault; `unsupported` for features that nodes lack.
    """
    fault = next(_faults(message), None)
    if fault is not None:
        raise RequestRejected(fault, backend=NODE, reason="invalid_argument")
    request = request_from_wire(message, deadline=deadline)
    if fault := request.sampling.fault(any_seed=True):
        raise RequestRejected(f"sampling.{fault}", backend=NODE, reason="invalid_argument")
    return request


def _faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not 0 < len(message.messages) <= _MAX_MESSAGES:
        yield f"messages: between 1 and {_MAX_MESSAGES} are taken, not {len(message.messages)}"
    if any(m.role not in pb.Role.values() or m.role == pb.ROLE_UNSPECIFIED for m in message.messages):
        yield "messages: a role is unknown; system, developer, user, assistant and tool are taken"
    if all(not text or text.isspace() for text in (m.content for m in message.messages)):  # each is decoded once
        yield "messages: the prompt is empty"
    stop = message.sampling.stop
    if len(stop) > STOP_TEXTS or any(not 0 < len(text) <= STOP_CHARACTERS for text in stop):
        yield f"sampling.stop: at most {STOP_TEXTS} texts of 1 to {STOP_CHARACTERS} characters are taken"
    yield from _number_faults(message)
    yield from _name_faults(message)
    yield from tool_faults(message)
    if message.HasField("output_schema") and not _is_schema(message.output_schema):
        yield "output_schema: must be a JSON Schema as JSON text"


def _number_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not 0 < message.max_tokens <= MAX_TOKENS.most:
        yield f"max_tokens: must be between 1 and {MAX_TOKENS.most}"
    if not 0 <= message.deadline_seconds < math.inf:
        yield "deadline_seconds: must be a finite number, 0 or more"
    if not LOGPROBS.least <= message.logprobs <= LOGPROBS.most:
        yield f"logprobs: must be {LOGPROBS.words}"


def _name_faults(message: pb.GenerateRequest) -> Iterator[str]:
    for field in ("task", "session_id", "tenant", "request_id", "model"):
        if not _is_name(getattr(message, field)):
            yield f"{field}: at most {NAME_CHARACTERS} printable characters are taken"
    if len(message.tags) > _MAX_TAGS or not all(tag and _is_name(tag) for tag in message.tags):
        yield f"tags: at most {_MAX_TAGS} of 1 to {NAME_CHARACTERS} printable characters are taken"


def _is_name(text: str) -> bool:
    return len(text) <= NAME_CHARACTERS and (not text or text.isprintable())


def _is_schema(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | bool)
    except (ValueError, RecursionError):
        return False


class Admission:
    """Bounds the requests in flight, running and waiting: overload is rejected at once. Used from one event loop.

    One client may fill the slots and its share of the queue; the rest stays free for others.
    A burst may fill the whole queue. A queue that persists only makes every answer late, so its limit shrinks while
    requests wait for longer than an answer takes, and grows again once a slot is free (after Nichols and Jacobson,
    *Controlling Queue Delay*, 2012; additive increase, multiplicative decrease).
    """

    def __init__(
        self, *, max_queue: int, client_share: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_queue = max_queue
        self._client_share = client_share
        self._clock = clock
        self._clients: Counter[str] = Counter()
        self._queue_limit = float(max_queue)
        self.in_flight = 0
        """Admitted requests that have not ended."""
        self._slots = 0
        self._work_s = 0.0
        self._shrunk = self._refused = float("-inf")

    @contextmanager
    def admit(self, slots: int, remaining: float, client: str = "") -> Generator[None, None, None]:
        """Count one request of *client* as in flight, while *slots* run at a time; *remaining* seconds are left to it.

        Raises:
            BackendOverloaded: slots and queue are full, or the request would expire in the queue; `retry_after` is when
                a slot should be free.
        """
        self._slots = slots
        limit = slots + max(int(self._queue_limit), min(self._max_queue, slots // 2))
        # With every slot busy for work_s, one of them becomes free every work_s / slots.
        each_s = self._work_s / max(slots, 1)
        if self.in_flight < slots:
            self._queue_limit = min(self._max_queue, self._queue_limit + 1.0)
        text = ""
        if self.in_flight >= limit or (self.in_flight - slots + 1) * each_s > remaining:
            text = f"the node is full: {self.in_flight} requests are running or waiting"
        elif (held := self._clients[client]) >= slots + self._client_share * (limit - slots):
            text = f"this client has {held} requests running or waiting on the node, and leaves the rest to others"
        if text:
            self._refused = self._clock()
            retry_after = round(max(each_s or _FIRST_GUESS_S / max(slots, 1), 0.05), 3)
            raise BackendOverloaded(text, backend=NODE, retry_after=retry_after)
        self.in_flight += 1
        self._clients[client] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    @property
    def crowded(self) -> bool:
        """Whether requests wait for a slot, or were refused a moment ago because there was none."""
        return self.in_flight > self._slots or self._clock() - self._refused < _MOMENT_S

    def observe(self, waited_s: float, work_s: float) -> None:
        """Learn from a request that has ended: seconds that it waited for a slot, and then held it."""
        self._work_s += (_WEIGHT if self._work_s else 1.0) * (work_s - self._work_s)
        if waited_s > max(self._work_s, _LEAST_WAIT_S):
            self.expired()

    def expired(self) -> None:
        """Learn that a request expired, or waited too long, before it got a slot: shrink the queue."""
        # Requests that end now were admitted under the old limit: shrink once per answer's duration, not once each.
        if self._clock() - self._shrunk >= self._work_s / 4:
            self._queue_limit, self._shrunk = self._queue_limit * _SHRINK, self._clock()


class Answer:
    """One answer while it is generated. Times count from *started*, on the clock of `time.perf_counter()`."""

    def __init__(self, request: EngineRequest, text: AnswerStream, *, started: float) -> None:
        self._request = request
        self._text = text
        self._started = started
        self._first = 0.0
        self._reported = 0
        self._queue_ms = 0.0
        self.cached_tokens = 0
        """Prompt tokens whose KV cache was reused."""
        self.tokens = 0
        """Tokens generated so far."""
        self.finish_reason: FinishReason | None = None
        """None while the answer is incomplete, and after a failure."""
        self._refused = False

    @property
    def penalised(self) -> bool:
        """Whether presence and frequency penalties are followed."""
        return self._request.sampling.penalises_answer

    @property
    def taken(self) -> int:
        """Tokens that the engine took for it, the prompt's included; none of a request that the engine did not take."""
        return 0 if self._refused and not self.tokens else len(self._request.prompt_ids) + self.tokens

    async def chunks(self, engine: Engine) -> AsyncGenerator[Chunk, None]:
        """Yield the answer that *engine* generates; closing the generator aborts the request.

        Raises:
            BackendError: the engine rejected the request or failed to compute it.
            EngineDied: the engine crashed.
        """
        try:
            async with aclosing(Owned(engine.stream(self._request))) as outputs:
                async for output in outputs:
                    for part in _parts(output):
                        chunk = self._parsed(part)
                        if chunk is not None:
                            yield chunk
                        if self.finish_reason is not None:
                            return
        except (BackendError, EngineDied):
            self._refused = True
            raise
        raise BackendUnavailable("the engine ended the answer without a reason", backend=NODE, reason="failed")

    def _parsed(self, output: EngineOutput) -> Chunk | None:
        try:
            return self._take(output)
        except MalformedCall:
            raise malformed(NODE) from None

    def _take(self, output: EngineOutput) -> Chunk | None:
        if output.error is not None:
            message = known(output.error.message) or "the engine could not answer this request"
            raise _FAULTS[output.error.code](message, backend=NODE)
        self._queue_ms, self.cached_tokens = output.queue_ms, output.cached_tokens
        delta = self._decode(output)
        if self._text.stopped:
            self.finish_reason = self._text.reason(FinishReason.STOP)
        elif output.finish_reason is not None:
            reason = FinishReason(output.finish_reason)  # an engine may send anything
            delta = delta.joined(self._text.finish(reason))
            self.finish_reason = self._text.reason(reason)
        if self.finish_reason is None and not delta:
            return None
        tokens, self._reported = self.tokens - self._reported, self.tokens
        chunk = Chunk(
            text=delta.text,
            reasoning=delta.reasoning,
            tool_calls=delta.calls,
            logprobs=delta.logprobs,
            tokens=tokens,
        )
        if self.finish_reason is None:
            return chunk
        usage = Usage(
            prompt_tokens=len(self._request.prompt_ids),
            completion_tokens=self.tokens,
            cached_prompt_tokens=self.cached_tokens,
            reasoning_tokens=self._text.reasoning_tokens,
        )
        return replace(chunk, finish_reason=self.finish_reason, usage=usage, timings=self.timings())

    def _decode(self, output: EngineOutput) -> Delta:
        delta = Delta()
        for token_id, scores in zip(output.token_ids, chain(output.scores, repeat(None)), strict=False):
            if self._text.stopped:
                break
            self.tokens += 1
            delta = delta.joined(self._text.push(token_id, scores))
        if self.tokens and not self._first:
            self._first = time.perf_counter()
        return delta

    def timings(self) -> Timings:
        """The times so far, measured on the node."""
        now = time.perf_counter()
        first = self._first or now
        steps = max(self.tokens - 1, 1)
        return Timings(
            queue_ms=self._queue_ms,
            ttft_ms=(first - self._started) * 1000,
            tpot_ms=(now - first) * 1000 / steps,
            total_ms=(now - self._started) * 1000,
        )


def _parts(output: EngineOutput) -> Iterator[EngineOutput]:
    """*output*; in several parts where it has the scores of many tokens."""
    while output.scores and len(output.token_ids) > _MOST_SCORED:
        tokens, scores = output.token_ids[:_MOST_SCORED], output.scores[:_MOST_SCORED]
        yield replace(output, token_ids=tokens, scores=scores, finish_reason=None, error=None)
        rest = slice(_MOST_SCORED, None)
        output = replace(output, token_ids=output.token_ids[rest], scores=output.scores[rest])
    yield output
