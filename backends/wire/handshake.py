"""Resolves a node's address, checks the route to it, and does one TLS handshake that says why it cannot be used.

gRPC reports a rejected certificate as "Socket closed" and has no setting for TLS 1.3 alone. Python's `ssl` names the
fault and can refuse anything below 1.3, so a channel is opened only after this handshake has passed.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from hybrid_llm.backends.wire.certificates import PemFiles, TLSFiles, inspect
from hybrid_llm.backends.wire.revocation import CertificateId, RevocationList, Revoked, id_of
from hybrid_llm.core.errors import AuthenticationFailed, BackendUnavailable, ConfigError, UntrustedPeer
from hybrid_llm.core.hosts import as_address, canonical_address, canonical_host
from hybrid_llm.core.threads import started

NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
"""Error numbers with which the kernel reports that it cannot send to an address at all."""

_ANY_PORT: Final = 9
NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "PACKET_LENGTH_TOO_LONG"})
_VERIFY: Final = {
    7: "has a signature that is not of {ca}; it may be another authority of the same name",
    9: "is not yet valid; check the clocks",
    10: "has expired; renew it with `hybrid-llm certs issue`",
    18: "is self-signed, not issued by {ca}",
    19: "is issued by another authority than {ca}",
    20: "is issued by another authority than {ca}",
    26: "is not a node's certificate",
    62: "does not name {name}; it was made for other hosts",
    64: "does not name the address {name}; it was made for other hosts",
}
"""Messages for OpenSSL's X509_V_ERR codes (x509_vfy.h)."""

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]


class Lookup:
    """Resolves names, bounded in time. Safe to use from any thread.

    The C library's look-up cannot be cancelled, and takes ten seconds and more where no name server answers. It
    therefore runs in a thread of its own, one for each name, however many callers wait.

    Args:
        getaddrinfo: As that of `socket`.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._lock = threading.Lock()
        self._pending: dict[str, Future[tuple[str, ...]]] = {}

    def __call__(self, host: str, timeout: float) -> tuple[str, ...]:
        """Return the addresses of *host*, each once, in the order in which to try them (RFC 6724).

        Raises:
            socket.gaierror: it has none.
            TimeoutError: no answer within *timeout* seconds.
        """
        return (host,) if is_address(host) else self.begin(host).result(timeout)

    def begin(self, host: str) -> Future[tuple[str, ...]]:
        """Return the addresses of the name *host* to come, from the look-up that runs or from a new one."""
        with self._lock:
            pending = self._pending.get(host)
            if pending is None:
                pending = Future()
                started(self._run, host, pending, name="hybrid-llm-lookup")  # it ends only once we have left the lock
                self._pending[host] = pending
            return pending

    def _run(self, host: str, pending: Future[tuple[str, ...]]) -> None:
        try:
            found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
            pending.set_result(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:  # noqa: BLE001  # the waiting callers raise it
            pending.set_exception(error)
        finally:
            with self._lock:
                del self._pending[host]


def is_address(host: str) -> bool:
    """Whether *host* is an IP address rather than a name."""
    return as_address(host) is not None


def has_route(address: str) -> bool:
    """Whether this machine could send to *address* now, by the kernel's routes; nothing is sent.

    Connecting a UDP socket looks the route up and no more (POSIX `connect`); about 10 us.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _ANY_PORT))
    except OSError as error:
        return error.errno not in NO_ROUTE
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a node listens, and the name that its certificate must hold."""

    host: str
    port: int
    server_name: str

    @classmethod
    def parse(cls, target: str, server_name: str | None = None, *, lowest_port: int = 1) -> Address:
        """Read `HOST:PORT` or `[IPv6]:PORT`; hosts are brought into their canonical form.

        Raises:
            ConfigError: it is neither.
        """
        try:
            host, port = canonical_address(target, lowest_port=lowest_port)
            return cls(host=host, port=port, server_name=canonical_host(server_name) if server_name else host)
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What was negotiated. *elapsed_ms* is the time for TCP and TLS together."""

    version: str
    cipher: str
    elapsed_ms: float
    certificate: CertificateId
    """The node's."""


def revoked_text(address: str, found: Revoked) -> str:
    """The message about a node whose certificate is revoked."""
    return f"the certificate of {address} was revoked on {found.at:%Y-%m-%d %H:%M} UTC ({found.reason})"


def tls_handshake(
    address: Address,
    files: TLSFiles,
    *,
    timeout: float,
    backend: str,
    ip: str | None = None,
    revocations: RevocationList | None = None,
) -> Handshake:
    """Do a handshake with a node and wait for its first bytes: only they prove that it accepts our certificate.

    Where the connection ends instead, without an alert, a second handshake tells a refusal from a connection that was
    lost on the way.

    Args:
        address: The node.
        files: Our certificate and the authority that we trust.
        timeout: Seconds for all of it.
        backend: The backend's name, for errors.
        ip: The host's IP address where it is known; without it the name is looked up.
        revocations: The revoked certificates; by default those of *files*.

    Raises:
        BackendUnavailable: nothing listens there, or it does not respond in time.
        UntrustedPeer: the node's certificate is expired, not yet valid, revoked, of another authority or for another
            name, or the listener does not speak TLS 1.3.
        AuthenticationFailed: the node does not accept our certificate.
        ConfigError: our own files cannot be read.
    """
    context = _context(files)
    revocations = revocations or RevocationList(files)
    revocations.look()
    started, shake = time.perf_counter(), partial(_one_handshake, address, files, context, backend, ip, revocations)
    with suppress(_Ended):
        return shake(timeout)
    try:
        return shake(_left(started, timeout))
    except _Ended as again:
        raise AuthenticationFailed(_rejected(address, files, again.how), backend=backend) from None


class _Ended(Exception):
    """The node ended the connection, without an alert, after it saw our certificate; *how* says in which way."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def _one_handshake(
    address: Address,
    files: TLSFiles,
    context: ssl.SSLContext,
    backend: str,
    ip: str | None,
    revocations: RevocationList,
    timeout: float,
) -> Handshake:
    started = time.perf_counter()
    try:
        with socket.create_connection((ip or address.host, address.port), timeout=timeout) as plain:
            plain.settimeout(_left(started, timeout))
            with context.wrap_socket(plain, server_hostname=address.server_name) as secure:
                elapsed_ms = (time.perf_counter() - started) * 1000
                certificate = id_of(x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b""))
                if (found := revocations.find(certificate)) is not None:
                    raise UntrustedPeer(revoked_text(str(address), found), backend=backend)
                if alert := _refusal(secure, started, timeout):
                    raise AuthenticationFailed(_rejected(address, files, alert), backend=backend)
                cipher = (secure.cipher() or ("",))[0]
                return Handshake(
                    version=str(secure.version()), cipher=cipher, elapsed_ms=elapsed_ms, certificate=certificate
                )
    except ssl.SSLCertVerificationError as error:
        reason = _VERIFY.get(error.verify_code, f"does not verify: {error.verify_message}")
        text = f"the certificate of {address} " + reason.format(ca=files.ca, name=address.server_name)
        raise UntrustedPeer(text, backend=backend) from None
    except ssl.SSLError as error:
        raise _tls_failure(error, address, files, backend) from None
    except OSError as error:
        reason, text = _unreachable(error, address, timeout)
        failure = BackendUnavailable(text, backend=backend, reason=reason)
        raise failure from (error if is_silence(error) else None)  # the cause tells silence from a refusal


def is_silence(error: BaseException | None) -> bool:
    """Whether no response came, or nothing can be sent; a refusal is a response."""
    return isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in NO_ROUTE)


_UNASKED_S: Final = 0.1
"""At least this long a peer has to send something unasked, seconds."""
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client begins HTTP/2: its preface, and a SETTINGS frame without settings (RFC 9113, section 3.4)."""


def _left(started: float, timeout: float) -> float:
    return max(timeout - (time.perf_counter() - started), 0.001)


def _refusal(secure: ssl.SSLSocket, started: float, timeout: float) -> str:
    """Wait for the first bytes, and return how the node refuses our certificate, if it does.

    Raises:
        _Ended: the connection ended: the node may have refused it, or it was lost on the way.
    """
    # In TLS 1.3 a server judges the client's certificate after the client's own handshake is over: one that refuses
    # it then closes the connection or sends an alert.
    try:
        if _first_byte(secure, started, timeout):
            return ""
    except ssl.SSLEOFError:
        pass
    except ssl.SSLError as error:
        return f"sent the alert {_alert(error)}"
    except (ConnectionResetError, BrokenPipeError):
        raise _Ended("reset the connection") from None
    raise _Ended("closed the connection")


def _first_byte(secure: ssl.SSLSocket, started: float, timeout: float) -> bytes:
    """Wait for the first byte; empty if the peer closed the connection.

    A node sends it unasked. A proxy that ends TLS, such as HAProxy, sends nothing before the client has begun HTTP/2.
    """
    unasked = max(time.perf_counter() - started, _UNASKED_S)
    secure.settimeout(min(unasked, _left(started, timeout)))
    try:
        return secure.recv(1)
    except TimeoutError:
        secure.settimeout(_left(started, timeout))
        secure.sendall(_PREFACE)
        return secure.recv(1)


def _context(files: TLSFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    pem = PemFiles.read(files)
    try:
        context.load_verify_locations(cadata=pem.ca.decode("ascii"))
        with _private_file(pem.key + pem.cert) as path:
            context.load_cert_chain(path)
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        message = f"{files.cert}, its key or {files.ca} cannot be used: {reason}"
        raise ConfigError(message, path=str(files.cert)) from None
    return context


@contextmanager
def _private_file(data: bytes) -> Iterator[str]:
    """The path of a file that holds *data*, for `ssl`, which reads keys from files only; in memory where it can be."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        with open(os.memfd_create("hybrid-llm", os.MFD_CLOEXEC), "wb", buffering=0) as file:
            file.write(data)
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.NamedTemporaryFile() as file:  # readable by this user only
        file.write(data)
        file.flush()
        yield file.name


def _unreachable(error: OSError, address: Address, timeout: float) -> tuple[str, str]:
    """The code and the text of the reason why no connection came about."""
    if isinstance(error, TimeoutError):
        return "no_response", f"{address} did not answer within {timeout:.1f} s"
    if isinstance(error, socket.gaierror):
        return "unresolved", f"the name {address.host} does not resolve"
    if isinstance(error, ConnectionRefusedError):
        return "refused", f"nothing listens on {address}; is the node running?"
    code = "no_route" if error.errno in NO_ROUTE else "disconnected"
    return code, f"{address} cannot be reached: {error.strerror}"


def _rejected(address: Address, files: TLSFiles, how: str) -> str:
    facts = inspect(files.cert)
    return (
        f"{address} {how} when it saw our certificate {files.cert} ({facts.subject}, issued by {facts.issuer}): "
        "it must be issued by the node's authority and be valid by the node's clock"
    )


def _tls_failure(
    error: ssl.SSLError, address: Address, files: TLSFiles, backend: str
) -> UntrustedPeer | AuthenticationFailed | BackendUnavailable:
    reason = error.reason or ""
    if reason in NOT_TLS:
        return UntrustedPeer(f"{address} does not speak TLS; is it one of our nodes?", backend=backend)
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return UntrustedPeer(f"{address} does not speak TLS 1.3, the only version in use", backend=backend)
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return AuthenticationFailed(_rejected(address, files, f"sent the alert {_alert(error)}"), backend=backend)
    text = f"the TLS handshake with {address} broke off: {_alert(error)}"
    return BackendUnavailable(text, backend=backend, reason="disconnected")


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or "without a reason").replace("_", " ").lower()
