"""The client's side of the stream: connects, takes the server's tasks, and comes back after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

import grpc

from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.backends.wire.channels import client_credentials, client_options, sync_channel
from hybrid_llm.backends.wire.tls import check_pair
from hybrid_llm.core.errors import AuthenticationFailed, BackendUnavailable, ConfigError, PermissionDenied
from hybrid_llm.prepare.federated.frames import MAX_BYTES, METHOD, Frame, Kind
from hybrid_llm.prepare.federated.offer import Offer

_SERVER: Final = "federated server"
_AGAIN_S: Final = 0.5
_REFUSED: Final = {
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationFailed,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}
App = Callable[[Any], Any]


@dataclass(slots=True)
class Attendance:
    """One client that takes part until the server ends.

    Attributes:
        target: `HOST:PORT` of the server.
        prepare: makes the app for an offer; it raises ConfigError for one that this client does not agree to.
        patience: how long an unreachable server is tried, seconds.
        sent: bytes of frames that left this machine.
    """

    target: str
    tls: TLSFiles
    prepare: Callable[[Offer], App]
    patience: float
    sent: int = 0
    received: int = 0
    tasks: int = 0
    _offer: bytes = b""
    _app: App | None = None
    _out: SimpleQueue[Frame | None] = field(default_factory=SimpleQueue)

    def run(self) -> None:
        """Take part to the end.

        Raises:
            ConfigError: the certificates, the offer or a task cannot be accepted.
            AuthenticationFailed, PermissionDenied: the server does not accept this client.
            BackendUnavailable: the server cannot be reached.
        """
        check_pair(self.tls, "client")
        lost = time.monotonic()
        while True:
            before = self.received
            try:
                if self._attended():
                    return
                reason = "the stream ended"
            except grpc.RpcError as error:
                reason = _refusal(error)
            now = time.monotonic()
            lost = now if self.received > before else lost
            if now - lost > self.patience:
                message = f"the server {self.target} cannot be reached ({reason}): check address and certificates"
                raise BackendUnavailable(message, backend=_SERVER)
            time.sleep(_AGAIN_S)

    def _attended(self) -> bool:
        """Take part in one stream; whether it came to the end of all rounds."""
        self._out = SimpleQueue()
        self._send(Frame(Kind.HELLO))
        options = client_options(max_message_bytes=MAX_BYTES)
        with sync_channel(self.target, client_credentials(self.tls), options) as channel:
            frames = channel.stream_stream(METHOD, None, None)(self._frames(self._out))
            try:
                return any(self._took(Frame.unpack(data)) for data in frames)
            finally:
                self._out.put(None)
                frames.cancel()  # type: ignore[no-untyped-call]

    def _frames(self, out: SimpleQueue[Frame | None]) -> Iterator[bytes]:
        while (frame := out.get()) is not None:
            yield frame.pack()

    def _send(self, frame: Frame) -> None:
        self.sent += 1 + len(frame.body)
        self._out.put(frame)

    def _took(self, frame: Frame) -> bool:
        """Handle *frame*; whether all is over."""
        self.received += 1 + len(frame.body)
        if frame.kind is Kind.OFFER:
            if frame.body != self._offer or self._app is None:
                self._offer, self._app = frame.body, self.prepare(Offer.read(frame.body))
            self._send(Frame(Kind.READY))
        elif frame.kind is Kind.TASK:
            self._send(Frame(Kind.REPLY, self._answer(frame.body)))
            self.tasks += 1
        return frame.kind is Kind.END

    def _answer(self, body: bytes) -> bytes:
        from flwr.common.serde import message_from_proto, message_to_proto
        from flwr.proto.message_pb2 import Message as Proto

        if self._app is None:
            raise ConfigError("the server asks before its offer: install the same version on both sides")
        reply: bytes = message_to_proto(self._app(message_from_proto(Proto.FromString(body)))).SerializeToString()
        return reply


def _refusal(error: grpc.RpcError) -> str:
    """Why a stream broke. Raises the typed error where the server refuses this client for good."""
    code, details = error.code(), error.details() or ""
    if (kind := _REFUSED.get(code)) is not None:
        raise kind(f"the server refuses this client: {details}", backend=_SERVER) from error
    return str(details).splitlines()[0][:120] if details else str(code.name)
