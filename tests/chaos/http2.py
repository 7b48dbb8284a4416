"""One HTTP/2 connection with a valid certificate and no manners: frames go out as they are asked for."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.protos import hybrid_pb2 as pb

GENERATE = "/hybrid_llm.v1.HybridLLM/Generate"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
T = TypeVar("T")
_WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


def grpc_message(text: str, *, max_tokens: int = 64) -> bytes:
    """A request as gRPC frames it."""
    message = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, content=text)], max_tokens=max_tokens)
    body = message.SerializeToString()
    return struct.pack(">BI", 0, len(body)) + body


def _fields(timeout: str) -> list[tuple[str, str]]:
    return [
        (":method", "POST"), (":scheme", "https"), (":path", GENERATE), (":authority", "127.0.0.1"),
        ("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", timeout),
        ("hybrid-llm-protocol", "1"),
    ]  # fmt: skip


def opened_and_reset(count: int) -> bytes:
    """The frames of *count* requests that are reset at once, the first ones of a connection."""
    encoder, frames = Encoder(), []
    for stream in range(1, 2 * count, 2):
        if stream < 5:  # from the second one on, all fields are in the table of the connection: the block is the same
            block = encoder.encode(_fields("30S"))
        header = struct.pack(">I", len(block))[1:] + b"\x01\x04" + struct.pack(">I", stream)
        frames.append(header + block + b"\x00\x00\x04\x03\x00" + struct.pack(">II", stream, 8))
    return b"".join(frames)


class Connection:
    """A connection to a node. *window* is what a stream may be sent before the reader takes more, bytes.

    *source* is the address that it comes from.
    """

    def __init__(self, port: int, tls: TLSFiles, *, window: int = 65535, source: str = "127.0.0.1") -> None:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.cert, tls.key)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), 10.0, source_address=(source, 0))
        self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        self._socket.setblocking(False)
        self._encoder = Encoder()
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._next = 1
        self.open, self.acknowledged = True, False
        self.answered: dict[int, float] = {}
        """Streams that the node has ended, and when, on `time.monotonic()`."""
        self.room, self.stream_room = 65535, 65535
        """Bytes that the node takes: on the connection, and on a new stream."""
        self.rooms: dict[int, int] = {}
        self._send(_PREFACE + SettingsFrame(0, settings={_WINDOW: window}).serialize())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def headers(self, *, timeout: str = "30S", end: bool = False) -> bytes:
        """The frame that opens the next stream."""
        stream, self._next = self._next, self._next + 2
        frame = HeadersFrame(stream, self._encoder.encode(_fields(timeout)), flags=["END_HEADERS"])
        if end:
            frame.flags.add("END_STREAM")
        self.rooms[stream] = self.stream_room
        return frame.serialize()

    @property
    def last(self) -> int:
        """The stream opened last."""
        return self._next - 2

    def send(self, frames: Iterable[bytes]) -> bool:
        """Send *frames*; false once the connection is gone."""
        return self._send(b"".join(frames))

    def data(self, stream: int, body: bytes, *, end: bool) -> int:
        """Send as much of *body* as the node takes now; returns how much."""
        size = min(len(body), self.room, self.rooms.get(stream, 0), 16384)
        if size <= 0 and body:
            return 0
        frame = DataFrame(stream, body[:size])
        if end and size == len(body):
            frame.flags.add("END_STREAM")
        self.room -= size
        self.rooms[stream] -= size
        return size if self._send(frame.serialize()) else 0

    def ask(self, text: str, *, timeout: str = "30S", max_tokens: int = 64) -> int:
        """Send one small request and return its stream."""
        self._send(self.headers(timeout=timeout))
        self.data(self.last, grpc_message(text, max_tokens=max_tokens), end=True)
        return self.last

    def reset(self, stream: int) -> bytes:
        """The frame that resets *stream*."""
        return RstStreamFrame(stream, 8).serialize()

    def close(self) -> None:
        """Break the connection off, without a farewell of TLS or HTTP/2."""
        self.open = False
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    def _send(self, data: bytes) -> bool:
        end, view = time.monotonic() + 30.0, memoryview(data)
        with self._writing:
            while view and self.open and time.monotonic() < end:
                view = view[self._step(self._socket.send, view) or 0 :]
        return self.open

    def _read(self) -> None:
        buffer = b""
        while self.open:
            received = self._step(self._socket.recv, 1 << 16)
            if received == b"":
                self.open = False
            buffer = self._take(buffer + (received or b""))

    def _step(self, work: Callable[[Any], T], argument: Any) -> T | None:
        """Do *work* on the TLS socket, which two threads may not use at once; None if it would have waited."""
        waiting: tuple[list[Any], list[Any]] = ([], [])
        try:
            with self._lock:
                return work(argument)
        except ssl.SSLWantReadError:
            waiting = ([self._socket], [])
        except ssl.SSLWantWriteError:
            waiting = ([], [self._socket])
        except OSError:
            self.open = False
        with contextlib.suppress(OSError, ValueError):
            select.select(*waiting, [], 0.05)
        return None

    def _take(self, buffer: bytes) -> bytes:
        while len(buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(buffer[:9]))
            if len(buffer) < 9 + length:
                break
            frame.parse_body(memoryview(buffer[9 : 9 + length]))
            buffer = buffer[9 + length :]
            self._handle(frame)
        return buffer

    def _handle(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.stream_room = frame.settings.get(_WINDOW, self.stream_room)
            self._send(SettingsFrame(0, flags=["ACK"]).serialize())
            self.acknowledged = True
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags:
            self._send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id:
                self.rooms[frame.stream_id] = self.rooms.get(frame.stream_id, 0) + frame.window_increment
            else:
                self.room += frame.window_increment
        elif isinstance(frame, RstStreamFrame) or "END_STREAM" in frame.flags:
            self.answered[frame.stream_id] = time.monotonic()
            self.rooms.pop(frame.stream_id, None)
