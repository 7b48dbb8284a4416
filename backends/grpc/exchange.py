"""One call to a node, without I/O: the bytes to send, what its messages mean, and what the node reports beside them.

The sync and the asyncio backend drive the same `Exchange`; they differ only in how they wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.message import DecodeError
from grpc import StatusCode

from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.wire.messages import PROTOCOL, chunk_from_wire, outgoing, record_from_wire
from hybrid_llm.backends.wire.sealing.keys import KeyConfig
from hybrid_llm.backends.wire.sealing.messages import AnswerOpener, seal_request
from hybrid_llm.backends.wire.status import LOAD_KEY, PROTOCOL_KEY, Metadata, decode, has_detail
from hybrid_llm.backends.wire.vocabulary import known, plain_name
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import (
    BackendError,
    BackendUnavailable,
    DeadlineExceeded,
    ProtocolMismatch,
    RequestRejected,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Request
from hybrid_llm.core.tracing import trace_headers
from hybrid_llm.protos import hybrid_pb2 as pb

_METADATA: Final = ((PROTOCOL_KEY, str(PROTOCOL)),)
_REPORTED: Final = ("draws", "logprobs", "penalties", "priorities", "parent")
_NAMES: Final = ("version", "model", "engine", "device", "tls_version", "tls_group", "identity")
"""What a node reports of itself, and may not be a text that it has read."""
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
    seals: bool = False
    """It takes sealed requests."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters beside the model that we may use."""


def described(reply: pb.NodeDescription, *, backend: str, sent: float, rtt_ms: float) -> NodeDescription:
    """What *reply* means, which was asked for at *sent*, in seconds since 1970, and took *rtt_ms*.

    Raises:
        ProtocolMismatch: the node speaks another version of the protocol.
    """
    if reply.protocol != PROTOCOL:
        versions = f"version {reply.protocol} of the protocol, this app speaks {PROTOCOL}"
        text = f"{backend} speaks {versions}: update the older one"
        raise ProtocolMismatch(text, backend=backend, ours=PROTOCOL, theirs=reply.protocol)
    for name in _NAMES:
        setattr(reply, name, plain_name(getattr(reply, name)))
    reply.reason = known(reply.reason)
    return record_from_wire(
        NodeDescription,
        reply,
        active=reply.load.active,
        queue=reply.load.queue,
        slots=reply.load.slots,
        clock_skew_s=reply.server_time_ms / 1000 - (sent + rtt_ms / 2000),
        rtt_ms=rtt_ms,
        seals=bool(reply.sealing_keys),
        adapters=tuple(filter(None, map(plain_name, reply.adapters))),
    )


@dataclass(slots=True, kw_only=True)
class NodeStats:
    """What the calls so far have shown of a node. Written and read by any thread."""

    health: HealthProbe
    first_tokens: FirstTokenTimes
    context_window: int = 0
    """The last one that it has reported: while it loads its model it reports 0."""
    parent: str = ""
    """The model that the configured adapter belongs to, as far as it is known."""
    logprobs: bool = True
    """Whether it gives log-probabilities; assumed of a node that has not reported yet."""
    penalties: bool = True
    """Whether it follows presence and frequency penalties; assumed likewise."""
    priorities: bool = False
    """Whether it follows priorities, as far as it has reported."""
    rtt_ms: float | None = None
    _warm: bool = False
    """Whether *rtt_ms* was measured over a connection that was open already."""
    _load: pb.NodeLoad = field(default_factory=pb.NodeLoad)
    _reported: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, load: pb.NodeLoad) -> None:
        """Record a node's report of its load."""
        with self._lock:
            self._load, self._reported = load, time.monotonic()
            self.context_window = load.context_window or self.context_window
            if load.context_window:  # else its engine does not run
                self.logprobs, self.penalties = load.logprobs, load.penalties
            self.priorities, self.parent = load.priorities, load.parent or self.parent
        self.health.responded()
        if load.stopping:
            self.health.stopping()
        else:
            self.health.serving()

    @property
    def draws(self) -> bool:
        """Whether its model draws where a request names no temperature."""
        return self._load.draws

    def completed(self, capabilities: Capabilities) -> Capabilities:
        """*capabilities*, with those that the node reports beside its answers."""
        return replace(capabilities, **{name: getattr(self, name) for name in _REPORTED})

    def add_rtt(self, rtt_ms: float, *, warm: bool) -> None:
        """Record a round-trip time; one that includes connecting counts only until there is a better one."""
        with self._lock:
            if self.rtt_ms is None or (warm and not self._warm):
                self.rtt_ms, self._warm = rtt_ms, warm
            elif warm:
                self.rtt_ms += _WEIGHT * (rtt_ms - self.rtt_ms)

    def load(self, in_flight: int) -> tuple[int, int, float]:
        """Return active and waiting requests and the load; our own calls alone once the last report is old."""
        with self._lock:
            if time.monotonic() - self._reported > _FRESH_S:
                return in_flight, 0, 0.0
            load = self._load
            active = max(load.active, in_flight)
            return active, load.queue, (active + load.queue) / load.slots if load.slots else 0.0


@dataclass(slots=True, eq=False)
class Exchange:
    """The state of one call of *request*; *on_message* is called with each message of the node."""

    request: Request
    config: GrpcConfig
    stats: NodeStats
    on_message: Callable[[], object]
    began: float = field(default_factory=time.monotonic)
    """When the exchange began, and from `start` on, when the call was sent; on `time.monotonic()`."""
    received_tokens: int = 0
    metadata: tuple[tuple[str, str], ...] = _METADATA
    """What is sent beside the request; from `payload` on, with its place in a trace."""
    ended: bool = False
    lost: bool = False
    """Its connection ended, or the node is silent: whether the node can be reached is for the probes to judge."""
    cancelled: bool = False
    """The node ended it, and gave no reason."""
    aborted: bool = False
    """We ended it, which says nothing of the node."""
    latest: Chunk = field(default_factory=Chunk)
    _started: float = 0.0
    _first_ms: float = 0.0
    _warm: bool = False
    _given_up: bool = False
    _distrusted: bool = False
    _opener: AnswerOpener | None = None
    """Opens the chunks, if the request was sealed."""
    _scored: bool = False
    """The answer has log-probabilities."""
    _heard: float = float("-inf")
    _suspected: float = float("-inf")
    _suspicions: int = 0
    """How often it was suspect, since the call or the answer began."""

    def payload(self, cleared: Cleared) -> bytes:
        """Return what to send: the bytes of the cleared request, compared with its clearance.

        Raises:
            PrivacyViolation: the bytes are not what was cleared.
            DeadlineExceeded: there is no time left.
            RequestRejected: the request does not fit the protocol, or is larger than a message may be.
        """
        remaining = self.remaining()
        try:
            data = outgoing(cleared, remaining=remaining, seals=self.config.sealed is not None, model=self.config.model)
        except (KeyError, ValueError, TypeError):
            # Not chained: the text of such an error may quote the prompt.
            text = "a field of the request does not fit the protocol: its role, a number's range, or invalid Unicode"
            raise RequestRejected(text, backend=self.config.name) from None
        self._check_size(data)
        if cleared.traceparent:
            self.metadata = (*_METADATA, *trace_headers(cleared.traceparent))
        return data

    def seal(self, payload: bytes, key: KeyConfig) -> bytes:
        """Return what to send instead of *payload*, sealed to *key*; raises as `payload` does."""
        data, self._opener = seal_request(payload, key, issued_ms=time.time_ns() // 1_000_000)
        self._check_size(data)
        return data

    def _check_size(self, data: bytes) -> None:
        limit = self.config.max_message_bytes
        if len(data) > limit:
            text = f"the request has {len(data)} bytes; a message to {self.config.name} holds at most {limit}"
            raise RequestRejected(text, backend=self.config.name, reason="message_too_large")

    def remaining(self) -> float:
        """Return the seconds left; raise `DeadlineExceeded` when there are none."""
        remaining = self.left()
        if not remaining > 0:
            raise self._late(
                f"the deadline of {self.request.deadline:g} s was over before {self.config.name} was called"
            )
        return remaining

    def left(self) -> float:
        """Seconds left, at most what gRPC can count."""
        return min(self.request.remaining(), _LONGEST_S)

    def start(self, *, warm: bool) -> None:
        """The call is sent now; *warm*: over a connection that has answered before."""
        self._warm = warm
        self.began = time.monotonic()
        self._started = time.perf_counter()  # on Windows `monotonic` has steps of 15 ms

    def receive(self, message: pb.GenerateChunk) -> Chunk:
        """Return a chunk of the answer.

        Raises:
            StreamInterrupted: it cannot be understood, or comes after the last one.
            DecryptionFailed: the request was sealed, and this is not the next piece of its answer.
        """
        self._heard = time.monotonic()
        self.on_message()
        if first := not self._first_ms:
            self._first_ms = self._elapsed_ms()
            self.stats.health.responded()
            self.stats.first_tokens.add(self._first_ms)
            self._suspicions = 0
        if self._opener is not None:
            message = self._opener(message)
        if first and message.model != self.config.model:
            raise self._outdated("does not choose among models")
        if first and self.request.sampling.penalises_answer and not message.penalties:
            self.stats.penalties = False
            raise self._outdated("follows no presence or frequency penalty")
        try:
            chunk = chunk_from_wire(message)
        except KeyError:
            raise self._broken("the node sent a finish reason that this version does not know") from None
        if self.ended:
            raise self._broken("the node sent more after the end of the answer")
        if self.request.logprobs is not None and not self._scored:
            self._check_scored(chunk)
        self.received_tokens += chunk.tokens or bool(chunk.text)
        self.ended = chunk.finish_reason is not None
        self.latest = chunk
        return chunk

    def _check_scored(self, chunk: Chunk) -> None:
        """Raise RequestRejected at the first text without log-probabilities: an older node does not know of them."""
        self._scored = bool(chunk.logprobs)
        if chunk.text and not self._scored:
            self.stats.logprobs = False
            raise self._outdated("gives no log-probabilities")

    def _outdated(self, lacks: str) -> RequestRejected:
        text = f"{self.config.name} {lacks}: its software is older than this app's"
        return RequestRejected(text, backend=self.config.name, reason="unsupported")

    @property
    def unanswered(self) -> bool:
        """Nothing was received yet."""
        return not self._first_ms

    @property
    def was_answered_wrongly(self) -> bool:
        """Whether a failure of it is the node's own, rather than that of the way to it."""
        return bool(self._started) and not self.lost and not self.cancelled

    def hung(self, error: BaseException) -> bool:
        """The deadline passed without a first token, and the node had at least half of that time."""
        late = isinstance(error, DeadlineExceeded) or self.left() <= 0.0
        return late and self.unanswered and time.monotonic() - self.began >= self.request.deadline / 2

    def suspect_since(self) -> float | None:
        """The instant since which nothing came, if that is suspiciously long ago; next time after twice as long."""
        now = time.monotonic()
        since = max(self.began, self._heard, self._suspected)
        if not self._started or now - since < self._usual_patience() * 2**self._suspicions:
            return None
        self._suspected, self._suspicions = now, self._suspicions + 1
        return since

    def _usual_patience(self) -> float:
        return max(_PATIENCE_S, 2e-3 * (self.stats.first_tokens.average_ms or 0.0))

    def give_up(self) -> bool:
        """The node is silent: whether this call, too, has received nothing for a while, and should end."""
        self._given_up = time.monotonic() - self._heard > _SILENCE_S
        return self._given_up

    def distrust(self) -> bool:
        """The node's certificate was revoked: its answer ends."""
        self._distrusted = True
        return True

    def abort(self, request_id: str) -> bool:
        """Whether this is a call of that request, which its caller ends."""
        self.aborted = self.aborted or self.request.request_id == request_id
        return self.aborted

    def settle(self, trailing: Metadata) -> None:
        """Record what the node reports beside its answer: its load, and the time that it took itself."""
        reported = next((value for key, value in trailing if key == LOAD_KEY and isinstance(value, bytes)), None)
        if reported is None:
            return
        try:
            load = pb.NodeLoad.FromString(reported)
        except DecodeError:
            return
        self.stats.report(load)
        ours, theirs = (self._first_ms, load.first_ms) if load.first_ms else (self._elapsed_ms(), load.server_ms)
        self.stats.add_rtt(max(ours - theirs, 0.0), warm=self._warm)

    def finish(self, trailing: Metadata) -> None:
        """The stream is over; raise `StreamInterrupted` or `DecryptionFailed` where its last chunk did not come."""
        self.settle(trailing)
        if self._opener is not None:
            self._opener.finish()
        if not self.ended:
            raise self._broken("the answer ended without its last chunk")

    def failure(self, code: StatusCode, message: str, trailing: Metadata) -> Exception:
        """Return the error that a status means to the caller."""
        if self._distrusted:
            return UntrustedPeer("the node's certificate was revoked while it answered", backend=self.config.name)
        is_bare = not has_detail(trailing)
        self.lost = self._given_up or (code is StatusCode.UNAVAILABLE and is_bare)
        self.cancelled = code is StatusCode.CANCELLED and is_bare
        if self._given_up:
            return self._silent()
        if code is StatusCode.DEADLINE_EXCEEDED:
            return self._late(f"{self.config.name} did not finish within the deadline of {self.request.deadline:g} s")
        return decode(code, message, trailing, backend=self.config.name, received_tokens=self.received_tokens)

    def _late(self, text: str) -> DeadlineExceeded:
        return DeadlineExceeded(text, backend=self.config.name, elapsed=time.monotonic() - self.request.created)

    def _silent(self) -> BackendError:
        text = f"{self.config.name} does not respond any more"
        if self.received_tokens:
            return self._broken(text)
        return BackendUnavailable(text, backend=self.config.name, reason="no_response")

    def _broken(self, text: str) -> StreamInterrupted:
        return StreamInterrupted(text, backend=self.config.name, received_tokens=self.received_tokens)

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._started) * 1000
