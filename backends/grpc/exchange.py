"""One call to a node, without I/O: the bytes to send, what its messages mean, and what the node reports beside them.

The sync and the asyncio backend drive the same `Exchange`; they differ only in how they wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from hybrid_llm.backends.wire.messages import PROTOCOL, chunk_from_wire, outgoing
from hybrid_llm.backends.wire.status import LOAD_KEY, PROTOCOL_KEY, Metadata, decode
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import DeadlineExceeded, RequestRejected, StreamInterrupted
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.request import Request
from hybrid_llm.protos import hybrid_pb2 as pb

METADATA: Final = ((PROTOCOL_KEY, str(PROTOCOL)),)

_LONGEST_S: Final = 1e6
"""gRPC cannot count longer deadlines."""
_FRESH_S: Final = 10.0
"""How long a node's report of its load counts, seconds."""
_SILENCE_S: Final = 1.0
"""When a node turns out to be silent, its calls that received nothing for this long end; seconds."""
_WEIGHT: Final = 0.2
"""Weight of a new round-trip time in the moving average."""
_PATIENCE_S: Final = 0.25
"""A call that receives nothing for this long, or for twice the usual time to first token, is suspect; seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDescription:
    """What a node reports of itself, and what was measured meanwhile."""

    protocol: int
    version: str
    """Of the node's software."""
    model: str
    engine: str
    device: str
    context_window: int
    output_schema: bool
    tools: bool
    ready: bool
    reason: str
    """Why it is not ready, for people."""
    active: int
    queue: int
    slots: int
    clock_skew_s: float
    """The node's clock minus ours, seconds; exact to half the round trip."""
    rtt_ms: float
    tls_version: str
    tls_group: str
    """The key exchange, such as `X25519MLKEM768`."""
    identity: str
    """Our own identity, as the node sees it."""

    @classmethod
    def from_wire(cls, message: pb.NodeDescription, *, rtt_ms: float, sent: float) -> NodeDescription:
        """Read a node's reply; *sent* is the wall clock when the question was sent, in seconds."""
        return cls(
            protocol=message.protocol,
            version=message.version,
            model=message.model,
            engine=message.engine,
            device=message.device,
            context_window=message.context_window,
            output_schema=message.output_schema,
            tools=message.tools,
            ready=message.ready,
            reason=message.reason,
            active=message.load.active,
            queue=message.load.queue,
            slots=message.load.slots,
            clock_skew_s=message.server_time_ms / 1000 - (sent + rtt_ms / 2000),
            rtt_ms=rtt_ms,
            tls_version=message.tls_version,
            tls_group=message.tls_group,
            identity=message.identity,
        )


@dataclass(slots=True, kw_only=True)
class NodeStats:
    """What the calls so far have shown of a node. Written and read by any thread."""

    health: HealthProbe
    first_tokens: FirstTokenTimes
    context_window: int = 0
    in_flight: int = 0
    rtt_ms: float | None = None
    _warm: bool = False
    """Whether *rtt_ms* was measured over a connection that was open already."""
    _load: pb.NodeLoad = field(default_factory=pb.NodeLoad)
    _reported: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Count a call as in flight."""
        with self._lock:
            self.in_flight += 1

    def end(self) -> None:
        """Count a call as over."""
        with self._lock:
            self.in_flight -= 1

    def report(self, load: pb.NodeLoad) -> None:
        """Record a node's report of its load."""
        with self._lock:
            self._load, self._reported = load, time.monotonic()
            self.context_window = load.context_window or self.context_window
        self.health.responded()
        if load.stopping:
            self.health.stopping()
        else:
            self.health.serving()

    def add_rtt(self, rtt_ms: float, *, warm: bool) -> None:
        """Record a round-trip time; one that includes connecting counts only until there is a better one."""
        with self._lock:
            if self.rtt_ms is None or (warm and not self._warm):
                self.rtt_ms, self._warm = rtt_ms, warm
            elif warm:
                self.rtt_ms += _WEIGHT * (rtt_ms - self.rtt_ms)

    def load(self) -> tuple[int, int, float]:
        """Return active and waiting requests and the load; our own calls alone once the last report is old."""
        with self._lock:
            if time.monotonic() - self._reported > _FRESH_S:
                return self.in_flight, 0, 0.0
            load = self._load
            active = max(load.active, self.in_flight)
            return active, load.queue, (active + load.queue) / load.slots if load.slots else 0.0


class Exchange:
    """The state of one call.

    Args:
        request: The request.
        backend: The backend's name, for errors.
        stats: Of the node.
        limit: The largest message, bytes.
        on_message: Called with each message of the node.
    """

    def __init__(
        self,
        request: Request,
        *,
        backend: str,
        stats: NodeStats,
        limit: int,
        on_message: Callable[[], object] = lambda: None,
    ) -> None:
        self._request = request
        self._backend = backend
        self._stats = stats
        self._limit = limit
        self._on_message = on_message
        self.began = time.monotonic()
        """When the exchange began, and from `start` on, when the call was sent; on `time.monotonic()`."""
        self._started = self._first_ms = 0.0
        self._warm = self._given_up = False
        self.received_tokens = 0
        self.ended = False
        self.latest = Chunk()
        self._heard = self._suspected = float("-inf")
        self._patience = self._usual_patience()

    def payload(self, cleared: Cleared) -> bytes:
        """Return what to send: the bytes of the cleared request, compared with its clearance.

        Raises:
            PrivacyViolation: the bytes are not what was cleared.
            DeadlineExceeded: there is no time left.
            RequestRejected: the request does not fit the protocol, or is larger than a message may be.
        """
        remaining = self.remaining()
        try:
            data = outgoing(cleared, remaining=remaining)
        except (KeyError, ValueError, TypeError):
            # Not chained: the text of such an error may quote the prompt.
            text = "a field of the request does not fit the protocol: its role, a number's range, or invalid Unicode"
            raise RequestRejected(text, backend=self._backend) from None
        if len(data) > self._limit:
            text = f"the request has {len(data)} bytes; a message to {self._backend} holds at most {self._limit}"
            raise RequestRejected(text, backend=self._backend, reason="message_too_large")
        return data

    def remaining(self) -> float:
        """Return the seconds left; raise `DeadlineExceeded` when there are none."""
        remaining = self.left()
        if not remaining > 0:
            raise self._late(f"the deadline of {self._request.deadline:g} s was over before {self._backend} was called")
        return remaining

    def left(self) -> float:
        """Seconds left, at most what gRPC can count."""
        return min(self._request.remaining(), _LONGEST_S)

    def start(self, *, warm: bool) -> None:
        """The call is sent now; *warm*: over a connection that has answered before."""
        self._warm = warm
        self.began = time.monotonic()
        self._started = time.perf_counter()  # on Windows `monotonic` has steps of 15 ms

    def receive(self, message: pb.GenerateChunk) -> Chunk:
        """Return a chunk of the answer.

        Raises:
            StreamInterrupted: it cannot be understood, or comes after the last one.
        """
        self._heard = time.monotonic()
        self._on_message()
        if not self._first_ms:
            self._first_ms = self._elapsed_ms()
            self._stats.health.responded()
            self._stats.first_tokens.add(self._first_ms)
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
    def sent(self) -> bool:
        """The call was sent."""
        return self._started > 0.0

    @property
    def unanswered(self) -> bool:
        """Nothing was received yet."""
        return not self._first_ms

    def waited_ms(self) -> float:
        """How long the exchange has taken so far, ms."""
        return (time.monotonic() - self.began) * 1e3

    def hung(self, error: BaseException) -> bool:
        """The deadline passed without a first token, and the node had at least half of that time."""
        late = isinstance(error, DeadlineExceeded) or self.left() <= 0.0
        return late and self.unanswered and time.monotonic() - self.began >= self._request.deadline / 2

    def suspect_since(self) -> float | None:
        """The instant since which nothing came, if that is suspiciously long ago; next time after twice as long."""
        now = time.monotonic()
        since = max(self.began, self._heard, self._suspected)
        if not self.sent or now - since < self._patience:
            return None
        self._suspected, self._patience = now, 2 * self._patience
        return since

    def _usual_patience(self) -> float:
        return max(_PATIENCE_S, 2e-3 * (self._stats.first_tokens.average_ms or 0.0))

    def give_up(self) -> bool:
        """The node is silent: whether this call, too, has received nothing for a while, and should end."""
        self._given_up = time.monotonic() - self._heard > _SILENCE_S
        return self._given_up

    def settle(self, trailing: Metadata) -> None:
        """Record what the node reports beside its answer: its load, and the time that it took itself."""
        load = read_load(trailing)
        if load is None:
            return
        self._stats.report(load)
        ours, theirs = (self._first_ms, load.first_ms) if load.first_ms else (self._elapsed_ms(), load.server_ms)
        self._stats.add_rtt(max(ours - theirs, 0.0), warm=self._warm)

    def finish(self) -> None:
        """The stream is over; raise `StreamInterrupted` where its last chunk did not come."""
        if not self.ended:
            raise self._broken("the answer ended without its last chunk")

    def failure(self, code: StatusCode, message: str, trailing: Metadata) -> Exception:
        """Return the error that a status means to the caller."""
        if self._given_up:
            code, message = StatusCode.UNAVAILABLE, f"{self._backend} does not respond any more"
        if code is StatusCode.DEADLINE_EXCEEDED:
            return self._late(f"{self._backend} did not finish within the deadline of {self._request.deadline:g} s")
        return decode(code, message, trailing, backend=self._backend, received_tokens=self.received_tokens)

    def _late(self, text: str) -> DeadlineExceeded:
        return DeadlineExceeded(text, backend=self._backend, elapsed=time.monotonic() - self._request.created)

    def _broken(self, text: str) -> StreamInterrupted:
        return StreamInterrupted(text, backend=self._backend, received_tokens=self.received_tokens)

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
