"""Asks the system's D-Bus for one number, in two round trips and without a library or a child process. Nothing else.

Wire format: D-Bus Specification 0.43, "Message Protocol" and "Authentication Protocol".
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

__all__ = ["system_property"]

_TIMEOUT_S: Final = 1.0
_LONGEST: Final = 1 << 16
_CALL, _REPLY = 1, 2
_NO_AUTO_START: Final = 2
"""A service that does not run is not started by our asking."""
_PATH, _INTERFACE, _MEMBER, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 5, 6, 8
_BUS: Final = "org.freedesktop.DBus"


def system_property(address: str, destination: str, path: str, interface: str, name: str) -> int | None:
    """The property *name*, if it is an unsigned 32-bit number; None if it is not, or nobody answers in a second."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(address)
            _authenticate(connection)
            connection.sendall(_call(1, _BUS, "/org/freedesktop/DBus", _BUS, "Hello"))
            ask = _call(2, destination, path, f"{_BUS}.Properties", "Get", interface, name)
            connection.sendall(ask)
            return _answer(connection, serial=2)
    except (OSError, ValueError, struct.error, UnicodeError):
        return None


def _authenticate(connection: socket.socket) -> None:
    """Say who we are; the bus asks the kernel whether it is true."""
    identity = str(os.geteuid()).encode().hex()
    connection.sendall(f"\0AUTH EXTERNAL {identity}\r\n".encode())
    line = b""
    while not line.endswith(b"\r\n") and len(line) < 512:
        line += _exactly(connection, 1)
    if not line.startswith(b"OK "):
        raise ValueError("the bus refuses")
    connection.sendall(b"BEGIN\r\n")


def _call(serial: int, destination: str, path: str, interface: str, member: str, *arguments: str) -> bytes:
    """A method call with texts as arguments."""
    body = b""
    for text in arguments:
        body = _padded(body, 4) + _text(text)
    fields = b""
    for code, kind, value in (
        (_PATH, "o", path),
        (_DESTINATION, "s", destination),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", member),
        *(((_SIGNATURE, "g", "s" * len(arguments)),) if arguments else ()),
    ):
        packed = _short(value) if kind == "g" else _text(value)
        fields = _padded(fields, 8) + bytes([code]) + _short(kind) + packed
    head = struct.pack("<cBBBIII", b"l", _CALL, _NO_AUTO_START, 1, len(body), serial, len(fields))
    return _padded(head + fields, 8) + body


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + b"\0"


def _short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode() + b"\0"


def _padded(data: bytes, boundary: int) -> bytes:
    return data + bytes(-len(data) % boundary)


def _answer(connection: socket.socket, serial: int) -> int | None:
    """The number in the reply to *serial*; signals and the reply to `Hello` come before it."""
    while True:
        order, kind, _, _, size, _, length = struct.unpack("<cBBBIII", start := _exactly(connection, 16))
        if order == b"B":
            size, _, length = struct.unpack(">III", start[4:])
        if size > _LONGEST or length > _LONGEST:
            raise ValueError("a message that long is no answer")
        order = ">" if order == b"B" else "<"
        fields = _exactly(connection, length + -length % 8)[:length]
        body = _exactly(connection, size)
        if dict(_fields(fields, order)).get(_REPLY_SERIAL) == serial:
            return _number(body, order) if kind == _REPLY else None


def _fields(data: bytes, order: str) -> Iterator[tuple[int, int | None]]:
    """Code and number of each header field; texts are passed over."""
    at = 0
    while at < len(data):
        at += -at % 8
        code, kind = data[at], data[at + 2 : at + 3]
        at += 4
        if kind == b"g":
            at += data[at] + 2
            yield code, None
            continue
        at += -at % 4
        (value,) = struct.unpack_from(f"{order}I", data, at)
        at += 4 if kind == b"u" else 5 + value
        yield code, value if kind == b"u" else None


def _number(body: bytes, order: str) -> int | None:
    """A variant that holds an unsigned number: signature `u`, padding, four bytes."""
    if body[:3] != b"\x01u\0":
        return None
    (number,) = struct.unpack_from(f"{order}I", body, 4)
    return int(number)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ValueError("the bus hung up")
        data += piece
    return data
