"""One call to a node, without I/O: what is sent, what an answer means, what the node told beside it.

The sync and the asyncio backend drive the same `Exchange`; they differ only in how they wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from grpc import StatusCode

from hybrid_llm.backends.wire.messages import PROTOCOL, chunk_from_wire, outgoing
from hybrid_llm.backends.wire.status import LOAD_KEY, PROTOCOL_KEY, Metadata, decode
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded, RequestRejected, StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.request import Request
from hybrid_llm.protos import hybrid_pb2 as pb

METADATA = ((PROTOCOL_KEY, str(PROTOCOL)),)

_LONGEST_S = 1e6
_STOPPING_S = 2.0
"""How long a node that said it stops is left alone, seconds; then a call finds out whether it is back."""
_FRESH_S = 10.0
"""How long a node's word about its load counts, seconds."""
_SILENCE_S = 1.0
"""A call that heard nothing for so long ends when its node is found silent, seconds."""
_WEIGHT = 0.2
"""Weight of a new time in a moving average."""
_PATIENCE_S = 0.25
"""A call may hear nothing for so long, or for twice the usual time to a first piece, before that is odd; seconds."""


@dataclass(slots=True)
class Observed:
    """What the calls so far have shown of a node. Written by any thread, read by any thread."""

    context_window: int = 0
    in_flight: int = 0
    rtt_ms: float | None = None
    first_ms: float = 0.0
    """The usual time to the first piece of an answer; 0 before there was one."""
    _sure: bool = False
    """Whether *rtt_ms* comes from a connection that was open already."""
    _load: pb.NodeLoad = field(default_factory=pb.NodeLoad)
    _told: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Count a call as in flight."""
        with self._lock:
            self.in_flight += 1

    def end(self) -> None:
        """Count a call as over."""
        with self._lock:
            self.in_flight -= 1

    def take_load(self, load: pb.NodeLoad) -> None:
        """Take what a node said of its load."""
        with self._lock:
            self._load, self._told = load, time.monotonic()
            self.context_window = load.context_window or self.context_window

    def take_rtt(self, rtt_ms: float, *, warm: bool) -> None:
        """Take a round-trip time; one that includes connecting counts only until there is a better one."""
        with self._lock:
            if self.rtt_ms is None or (warm and not self._sure):
                self.rtt_ms, self._sure = rtt_ms, warm
            elif warm:
                self.rtt_ms += _WEIGHT * (rtt_ms - self.rtt_ms)

    def take_first(self, first_ms: float) -> None:
        """Take the time to a first piece."""
        with self._lock:
            self.first_ms += (_WEIGHT if self.first_ms else 1.0) * (first_ms - self.first_ms)

    @property
    def stopping(self) -> bool:
        """The node said, a moment ago, that it is about to stop."""
        with self._lock:
            return self._load.stopping and time.monotonic() - self._told <= _STOPPING_S

    def load(self) -> tuple[int, int, float]:
        """Return the node's active and waiting requests and its load; our own calls alone once its word is old."""
        with self._lock:
            if time.monotonic() - self._told > _FRESH_S:
                return self.in_flight, 0, 0.0
            load = self._load
            active = max(load.active, self.in_flight)
            return active, load.queue, (active + load.queue) / load.slots if load.slots else 0.0


class Exchange:
    """The state of one call."""

    def __init__(
        self,
        request: Request,
        *,
        backend: str,
        observed: Observed,
        limit: int,
        heard: Callable[[], object] = lambda: None,
    ) -> None:
        """*heard* is called with each piece; *limit* is in bytes."""
        self._request = request
        self._backend = backend
        self._observed = observed
        self._limit = limit
        self._on_word = heard
        self.began = 0.0
        """When the call went out, on `time.monotonic()`."""
        self._started = 0.0
        self._first_ms = 0.0
        self._warm = False
        self.received_tokens = 0
        self.ended = False
        self.latest = Chunk()
        self._heard = self._doubted = float("-inf")
        self._patience = self._usual_patience()
        self._given_up = False

    def payload(self, cleared: Cleared) -> bytes:
        """Return what is sent: the bytes of the cleared request, held against its clearance.

        Raises:
            PrivacyViolation: the bytes are not what was cleared.
            DeadlineExceeded: there is no time left.
            RequestRejected: the request does not fit the protocol, or is larger than a message may be.
        """
        remaining = self.remaining()
        try:
            data = outgoing(cleared, remaining=remaining)
        except (KeyError, ValueError, TypeError):
            # Their texts may quote the prompt.
            text = "a field of the request does not fit the protocol: its role, a number's range, or invalid Unicode"
            raise RequestRejected(text, backend=self._backend) from None
        if len(data) > self._limit:
            text = f"the request has {len(data)} bytes; a message to {self._backend} holds at most {self._limit}"
            raise RequestRejected(text, backend=self._backend, reason="message_too_large")
        return data

    def remaining(self) -> float:
        """Seconds left; raises `DeadlineExceeded` when there are none."""
        remaining = self.left()
        if not remaining > 0:
            elapsed = time.monotonic() - self._request.created
            text = f"the deadline of {self._request.deadline:g} s was over before {self._backend} was asked"
            raise DeadlineExceeded(text, backend=self._backend, elapsed=elapsed)
        return remaining

    def left(self) -> float:
        """Seconds left, at most what gRPC can count."""
        return min(self._request.remaining(), _LONGEST_S)

    def start(self, *, warm: bool) -> None:
        """The call goes out now; *warm*: over a connection that has answered before."""
        self._warm = warm
        self.began = time.monotonic()
        self._started = time.perf_counter()

    def take(self, message: pb.GenerateChunk) -> Chunk:
        """Return a piece of the answer.

        Raises:
            StreamInterrupted: it cannot be understood, or comes after the last one.
        """
        self._heard = time.monotonic()
        self._on_word()
        if not self._first_ms:
            self._first_ms = self._elapsed_ms()
            self._observed.take_first(self._first_ms)
            self._patience = self._usual_patience()
        try:
            chunk = chunk_from_wire(message)
        except KeyError:
            raise self._broken("the node sent a finish reason that this version does not know") from None
        if self.ended:
            raise self._broken("the node sent more after the end of the answer")
        self.received_tokens += chunk.tokens or bool(chunk.text)
        self.ended = chunk.finish_reason is not None
        self.latest = chunk
        return chunk

    @property
    def unheard(self) -> bool:
        """The call has begun, and not a word came."""
        return self._started > 0.0 and not self._first_ms

    def lapse(self) -> float | None:
        """The instant since which nothing came, where that is oddly long ago; told again after twice the time."""
        now = time.monotonic()
        since = max(self.began, self._heard, self._doubted)
        if not self._started or now - since < self._patience:
            return None
        self._doubted, self._patience = now, 2 * self._patience
        return since

    def _usual_patience(self) -> float:
        return max(_PATIENCE_S, 2e-3 * self._observed.first_ms)

    def give_up(self) -> bool:
        """The node does not answer any more: whether this call, too, has heard nothing for a while."""
        self._given_up = time.monotonic() - self._heard > _SILENCE_S
        return self._given_up

    def settle(self, trailing: Metadata) -> None:
        """Take what the node says beside its answer: load, and the time it took itself."""
        load = read_load(trailing)
        if load is None:
            return
        self._observed.take_load(load)
        ours, theirs = (self._first_ms, load.first_ms) if load.first_ms else (self._elapsed_ms(), load.server_ms)
        self._observed.take_rtt(max(ours - theirs, 0.0), warm=self._warm)

    def finish(self) -> None:
        """The stream is over; raises `StreamInterrupted` when its last chunk did not come."""
        if not self.ended:
            raise self._broken("the answer ended without its last piece")

    def failure(self, code: StatusCode, message: str, trailing: Metadata) -> Exception:
        """Return the error that a status means to the caller."""
        if self._given_up:
            code, message = StatusCode.UNAVAILABLE, f"{self._backend} does not answer any more"
        if code is StatusCode.DEADLINE_EXCEEDED:
            text = f"{self._backend} did not finish within the deadline of {self._request.deadline:g} s"
            elapsed = time.monotonic() - self._request.created
            return DeadlineExceeded(text, backend=self._backend, elapsed=elapsed)
        return decode(code, message, trailing, backend=self._backend, received_tokens=self.received_tokens)

    def closed(self) -> BackendUnavailable:
        """The error of a call whose backend was closed under it."""
        return BackendUnavailable(f"{self._backend} is closed", backend=self._backend)

    def _broken(self, message: str) -> StreamInterrupted:
        return StreamInterrupted(message, backend=self._backend, received_tokens=self.received_tokens)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._started) * 1000


def read_load(trailing: Metadata) -> pb.NodeLoad | None:
    """Find a node's load in its trailing metadata; None where there is none."""
    for key, value in trailing:
        if key == LOAD_KEY and isinstance(value, bytes):
            try:
                return pb.NodeLoad.FromString(value)
            except DecodeError:
                return None
    return None
