"""The server's side of the streams: who is there, and a grid that hands them Flower's messages."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Protocol, Self

import grpc

from hybrid_llm.backends.node.identity import peer_of
from hybrid_llm.backends.node.rights import client_name
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.backends.wire.channels import server_credentials, server_options
from hybrid_llm.backends.wire.tls import require_tls13, tls13_required
from hybrid_llm.core.errors import BackendError, ConfigError, SecurityError
from hybrid_llm.prepare.federated.frames import MAX_BYTES, NAME, SERVICE, Frame, Kind
from hybrid_llm.prepare.federated.keys import node_of

_log = logging.getLogger(__name__)
_AGE_S: Final = 20 * 24 * 3600.0  # gRPC takes milliseconds in 31 bits
_FAILED: Final = 1
"""Flower's code for a client that gave no reply."""


class Grid(Protocol):
    """What Flower's workflow needs: a way to ask clients."""

    def node_ids(self) -> list[int]:
        """The clients that are there."""

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Send each message to its client, and return the replies; an error in place of one that does not come."""


class Member:
    """A client that is connected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node_id = node_of(name)
        self.ready = False
        self.sent = self.received = 0
        self._tasks: SimpleQueue[Frame | None] = SimpleQueue()
        self._replies: SimpleQueue[Frame | None] = SimpleQueue()

    def frames(self) -> Iterator[bytes]:
        """What is sent to it, until it leaves or all is over."""
        while (frame := self._tasks.get()) is not None:
            data = frame.pack()
            self.sent += len(data)
            yield data
            if frame.kind is Kind.END:
                return

    def put(self, frame: Frame) -> None:
        """Send *frame*."""
        self._tasks.put(frame)

    def arrived(self, frame: Frame) -> None:
        """Take a frame that it sent."""
        self.received += 1 + len(frame.body)
        self._replies.put(frame)

    def leave(self) -> None:
        """End its stream, and everybody's waiting for it."""
        self._tasks.put(None)
        self._replies.put(None)

    def reply(self, seconds: float) -> Frame | None:
        """Its next frame; None if it left or does not answer in time."""
        try:
            return self._replies.get(timeout=max(0.0, seconds))
        except Empty:
            return None


class Roster:
    """A server for clients with certificates of our authority; a context manager."""

    def __init__(self, address: str, tls: TLSFiles, offer: bytes, allowed: Iterable[str], most: int) -> None:
        """Listen at *address*, `HOST:PORT`, for at most *most* clients; those *allowed* by name, or all if none is.

        Raises:
            ConfigError: the certificates do not let their holder serve, or the address is taken.
        """
        require_tls13()
        self._offer, self._allowed = offer, frozenset(allowed)
        self._members: dict[str, Member] = {}
        self._changed = threading.Condition()
        self.received = self.sent = 0
        options = server_options(max_message_bytes=MAX_BYTES, max_connection_age=_AGE_S)
        self._server = grpc.server(ThreadPoolExecutor(most + 4, "hybrid-llm-federated"), options=options)
        handler = grpc.stream_stream_rpc_method_handler(self._attend)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {NAME: handler}),))
        try:
            self.port = self._server.add_secure_port(address, server_credentials(tls))
        except RuntimeError as error:
            raise ConfigError(f"{address} cannot be listened at: it is taken, or not of this machine") from error

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self._present():
            member.put(Frame(Kind.END)) if kind is None else member.leave()
        self._server.stop(5.0 if kind is None else 0.0).wait()

    def wait_for(self, count: int, seconds: float) -> list[Member]:
        """The clients that are ready, once there are *count*.

        Raises:
            ConfigError: they are not within *seconds*.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.ready()) >= count, seconds):
                there = ", ".join(member.name for member in self.ready()) or "nobody"
                raise ConfigError(
                    f"after {seconds:g} s {there} is ready, and {count} clients are needed: start the others"
                )
            return self.ready()

    def ready(self) -> list[Member]:
        """The clients that are there and take part, by name."""
        return [member for member in self._present() if member.ready]

    def node_ids(self) -> list[int]:
        """The clients that are there."""
        return [member.node_id for member in self.ready()]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Send each message to its client, and return the replies; an error in place of one that does not come."""
        from flwr.common.serde import message_to_proto

        deadline = time.monotonic() + (timeout or _AGE_S)
        by_id = {member.node_id: member for member in self.ready()}
        asked = [(message, by_id.get(message.metadata.dst_node_id)) for message in messages]
        for message, member in asked:
            if member is not None:
                member.put(Frame(Kind.TASK, message_to_proto(message).SerializeToString()))
        return [self._answer(message, member, deadline) for message, member in asked]

    def _answer(self, message: Any, member: Member | None, deadline: float) -> Any:
        frame = member.reply(deadline - time.monotonic()) if member is not None else None
        found = _reply_of(message, frame)
        if found.has_error() and member is not None:
            _log.warning("client %s gave no reply in this round", member.name)
            if frame is None or frame.kind is not Kind.FAILED:
                self._remove(member)  # whatever it sends later belongs to a round that is over
        return found

    def _present(self) -> list[Member]:
        with self._changed:
            return [member for _, member in sorted(self._members.items())]

    def _attend(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        member = self._admit(context)
        context.add_callback(lambda: self._remove(member))
        threading.Thread(target=self._read, args=(member, frames), daemon=True).start()
        member.put(Frame(Kind.OFFER, self._offer))
        return member.frames()

    def _admit(self, context: grpc.ServicerContext) -> Member:
        try:
            peer = peer_of(context.auth_context(), address=context.peer(), only_tls13=tls13_required())
        except (BackendError, SecurityError) as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        name = client_name(peer.identity)
        if self._allowed and name not in self._allowed:
            _log.warning("client %s is not allowed to take part", name)
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "this client is not on the server's list")
        member = Member(name)
        with self._changed:
            if (old := self._members.pop(name, None)) is not None:
                old.leave()
            self._members[name] = member
        return member

    def _read(self, member: Member, frames: Iterator[bytes]) -> None:
        try:
            for data in frames:
                frame = Frame.unpack(data)
                if frame.kind is Kind.READY:
                    with self._changed:
                        member.ready = True
                        self._changed.notify_all()
                elif frame.kind is not Kind.HELLO:
                    member.arrived(frame)
        except Exception:  # noqa: BLE001  # a stream of gRPC breaks by an Exception of no other class
            _log.debug("the stream of client %s ended", member.name)
        finally:
            self._remove(member)

    def _remove(self, member: Member) -> None:
        member.leave()
        with self._changed:
            if self._members.get(member.name) is member:
                del self._members[member.name]
                self.received += member.received
                self.sent += member.sent
            self._changed.notify_all()


class InProcess:
    """Clients in this process, one after the other: for simulations."""

    def __init__(self, apps: Mapping[int, Callable[[Any], Any]]) -> None:
        self._apps = apps

    def node_ids(self) -> list[int]:
        """The clients that are there."""
        return list(self._apps)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:  # noqa: ARG002
        """The reply of each client, to a copy of its message, since they change it."""
        from flwr.common.serde import message_from_proto, message_to_proto

        return [
            self._apps[message.metadata.dst_node_id](message_from_proto(message_to_proto(message)))
            for message in messages
        ]


def _reply_of(message: Any, frame: Frame | None) -> Any:
    """The reply in *frame*, or an error in its place."""
    from flwr.app import Error, Message
    from flwr.common.serde import message_from_proto
    from flwr.proto.message_pb2 import Message as Proto
    from google.protobuf.message import DecodeError

    if frame is not None and frame.kind is Kind.REPLY:
        try:
            reply = message_from_proto(Proto.FromString(frame.body))
            reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id  # whatever the client wrote there
            return reply
        except (DecodeError, ValueError, TypeError):
            pass
    return Message(Error(code=_FAILED, reason="no reply"), reply_to=message)
