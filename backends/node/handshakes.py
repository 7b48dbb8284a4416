"""Logs each failed TLS handshake with peer and reason, which C-core writes only into a trace, on standard error.

C-core writes while it holds locks, so its reader must never wait for the node. It is a process of its own: this file,
run as a program without our packages. It passes everything else on unchanged, and ends when nobody can write any more.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final
from urllib.parse import unquote

_QUIET_S: Final = 10.0
"""A host that fails for one reason is a WARNING once in this time, seconds."""
_END_S: Final = 2.0
_BEGIN: Final = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ ")
_RECORD: Final = re.compile(
    rb"I[\d.: ]+(handshaker\.cc|channel_trace\.h|ssl_transport_security\.cc|trace\.cc):\d+\] (.*)"
)
_MORE: Final = re.compile(rb"=== Source Location Trace|src/core/| shutdown=|$")
"""How the further lines of a record of the trace begin."""
_FAILED: Final = re.compile(rb"CallNextHandshakerLocked: error=(?!OK)([^\n]*?)(?: shutdown=|$)")
_PEER: Final = re.compile(rb"endpoint_peer_address=([^,}\s]+)")
_ERROR: Final = re.compile(r"OPENSSL_internal:(\w+)(?:: (?!Invalid certificate verification context)([^:]+))?")
_CLOSED: Final = "it closed the connection"
_PARTS: Final = {
    "Endpoint closing": "it did not complete it in time",
    "Handshake read failed": _CLOSED,
    "Handshake write failed": _CLOSED,
    "missing selected ALPN property": "it does not offer HTTP/2",
}
"""By a part of an error of C-core's own."""
_REASONS: Final = {
    "HTTP_REQUEST": "it speaks HTTP without TLS",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "NO_SHARED_CIPHER": "it does not offer TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "it does not offer TLS 1.3",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it sent no certificate",
    "BAD_PACKET_LENGTH": "it broke it off, as clients do that refuse the node's certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority of the node's certificate",
}
"""By the name that BoringSSL gives an error."""


@contextmanager
def logged_handshakes() -> Generator[None, None, None]:
    """Log failed handshakes, and keep C-core's own lines about them from standard error, until the end of the block.

    For a program that is a node and has not imported gRPC yet. Where the environment configures gRPC's log, or gRPC is
    there, nothing changes.
    """
    if "grpc" in sys.modules or {"GRPC_TRACE", "GRPC_VERBOSITY"} & os.environ.keys():
        yield
        return
    os.environ["GRPC_TRACE"] = "handshaker"
    plain, old = os.dup(2), sys.stderr
    reader = _start_reader()
    # What Python writes goes past the reader, whatever becomes of it.
    sys.stderr = os.fdopen(os.dup(plain), "w", buffering=1, errors="backslashreplace")
    thread = threading.Thread(target=_log_failures, args=(reader.stdout, plain), name="handshakes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(plain, 2)
        with suppress(subprocess.TimeoutExpired):
            reader.wait(_END_S)
        reader.kill()
        thread.join()
        if reader.stdout is not None:
            reader.stdout.close()
        os.close(plain)
        del os.environ["GRPC_TRACE"]
        sys.stderr = old


def _start_reader() -> subprocess.Popen[bytes]:
    """Start this file as a program between descriptor 2 and what it was until now."""
    source, sink = os.pipe()
    try:
        program = [sys.executable, "-I", "-S", __file__]
        reader = subprocess.Popen(program, stdin=source, stdout=subprocess.PIPE)  # noqa: S603 - our own file
        os.dup2(sink, 2)
    finally:
        os.close(source)
        os.close(sink)
    return reader


def _log_failures(found: IO[bytes] | None, plain: int) -> None:
    """Log what the reader has *found*; when it has ended, descriptor 2 is *plain* again."""
    import logging

    from hybrid_llm.core.log import Repeated

    log = logging.getLogger(__name__)
    repeated = Repeated(every_s=_QUIET_S, between=logging.DEBUG, logger=log)
    for line in found or ():
        peer, _, error = line.decode("ascii", "replace").rstrip("\n").partition("\t")
        peer, reason = unquote(peer), reason_of(error)
        text = "a TLS handshake of %s failed: %s"
        if reason == _CLOSED:  # as health checks of proxies do, every second
            log.debug(text, peer, reason)
        else:
            repeated.warn(f"{reason} {peer.rpartition(':')[0]}", text, peer, reason)
    os.dup2(plain, 2)


def reason_of(error: str) -> str:
    """Return what *error*, as C-core words it, says about the peer."""
    if (known := next((words for part, words in _PARTS.items() if part in error), None)) is not None:
        return known
    if (found := _ERROR.search(error)) is None:
        return error[:120]
    name, detail = found.groups()
    if name == "CERTIFICATE_VERIFY_FAILED":
        return f"its certificate was refused, {detail or 'without a reason'}"
    return _REASONS.get(name, name.lower().replace("_", " "))


def failures_in(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes] | bytes]:
    """Yield the peer and error of each failed handshake in *lines*, and unchanged what is not of C-core's trace."""
    error, inside = b"", False
    for line in lines:
        record = _RECORD.match(line)
        inside = record is not None or (inside and _MORE.match(line) is not None)
        if not inside:
            yield line
            continue
        if record is not None:
            failed = _FAILED.match(record[2])
            error = failed[1] if failed else b""
        peer = _PEER.search(line)
        if error and peer:
            yield peer[1], error
            error = b""


def _lines(source: int) -> Iterator[bytes]:
    """The lines of *source*; what does not begin as a record of C-core does not wait for its end."""
    rest = b""
    while data := os.read(source, 1 << 16):
        *whole, rest = (rest + data).split(b"\n")
        yield from (line + b"\n" for line in whole)
        if rest and not _BEGIN.match(rest) and len(rest) > 40:
            yield rest
            rest = b""
    yield rest


def main() -> None:
    """Read standard input to its end: failures go to standard output, other lines to standard error."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they reach the whole group, and are the node's business
        signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)
    os.set_blocking(1, False)  # a node that hangs does not read; its failures are lost then
    for each in failures_in(_lines(0)):
        with suppress(OSError):
            if isinstance(each, bytes):
                os.write(2, each)
            else:
                os.write(1, b"\t".join(each) + b"\n")


if __name__ == "__main__":
    main()
