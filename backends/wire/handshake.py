"""Names of hosts to addresses, bounded in time, and whether this machine has any way to an address.

The C library's look-up cannot be stopped, and takes ten seconds and more where no name server answers. So it is waited
for elsewhere: in a thread of its own, one for each name, however many ask.

One TLS handshake, bounded in time and without data, that says why a node cannot be reached or trusted.

gRPC tells a refused certificate as "Socket closed", and has no setting for TLS 1.3 alone. Python's `ssl` names the
fault and accepts nothing below 1.3, so a channel is opened only after this has passed.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.backends.wire.certificates import TLSFiles, inspect
from hybrid_llm.core.errors import AuthenticationFailed, BackendUnavailable, ConfigError, UntrustedPeer

NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
"""What the kernel says where it cannot send to an address at all."""
_ANY_PORT: Final = 9

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]


class Lookup:
    """Looks names up. Safe to use from any thread.

    Args:
        getaddrinfo: As that of `socket`.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._lock = threading.Lock()
        self._asked: dict[str, Future[tuple[str, ...]]] = {}

    def __call__(self, host: str, timeout: float) -> tuple[str, ...]:
        """The addresses of *host*, each once, in the order in which they are to be tried (RFC 6724).

        Raises:
            socket.gaierror: it has none.
            TimeoutError: nothing was found out within *timeout* seconds.
        """
        if is_address(host):
            return (host,)
        with self._lock:
            asked = self._asked.get(host)
            if asked is None:
                self._asked[host] = asked = Future()
                threading.Thread(target=self._ask, args=(host, asked), name="hybrid-llm-lookup", daemon=True).start()
        return asked.result(timeout)

    def _ask(self, host: str, asked: Future[tuple[str, ...]]) -> None:
        try:
            found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
            asked.set_result(tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:  # noqa: BLE001  # whoever waits raises it
            asked.set_exception(error)
        finally:
            with self._lock:
                del self._asked[host]


def is_address(host: str) -> bool:
    """Whether *host* is an address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def has_way(address: str) -> bool:
    """Whether this machine could send to *address* now. It asks the kernel's routes, and sends nothing.

    Connecting a UDP socket looks the route up and no more (POSIX `connect`); about 10 us.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _ANY_PORT))
    except OSError as error:
        return error.errno not in NO_WAY
    return True


_TARGET = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s\[\]:/@]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a node listens, and whom its certificate must name."""

    host: str
    port: int
    server_name: str

    @classmethod
    def parse(cls, target: str, server_name: str | None = None, *, lowest_port: int = 1) -> Endpoint:
        """Read `HOST:PORT` or `[IPv6]:PORT`.

        Raises:
            ConfigError: it is neither.
        """
        found = _TARGET.fullmatch(target)
        if found is None or not lowest_port <= int(found["port"]) < 65536:
            raise ConfigError(f"{target!r} is not HOST:PORT; write 127.0.0.1:7443 or [::1]:7443")
        host = found["six"] or found["host"]
        return cls(host=host, port=int(found["port"]), server_name=server_name or host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What was agreed on. *elapsed_ms* is the time for TCP and TLS together."""

    version: str
    cipher: str
    elapsed_ms: float


def shake_hands(
    endpoint: Endpoint, files: TLSFiles, *, timeout: float, backend: str, address: str | None = None
) -> Handshake:
    """Do one handshake with the node, and wait for its first bytes: only they prove that it takes our certificate.

    *address* is where the host is, where that is known; without it the name is looked up.

    Raises:
        BackendUnavailable: nothing listens there, or it does not answer in time.
        UntrustedPeer: the node's certificate is expired, not yet valid, of another authority or for another name, or
            what listens speaks no TLS 1.3.
        AuthenticationFailed: the node does not accept our certificate.
        ConfigError: our own files cannot be read.
    """
    context = _context(files)
    try:
        return _shake(endpoint, files, context, timeout, backend, address)
    except ssl.SSLCertVerificationError as error:
        raise UntrustedPeer(_distrust(error, endpoint, files), backend=backend) from None
    except ssl.SSLError as error:
        raise _no_tls(error, endpoint, files, backend) from None
    except OSError as error:
        failure = BackendUnavailable(_unreachable(error, endpoint, timeout), backend=backend)
        raise failure from (error if is_silence(error) else None)  # the cause tells silence from a refusal


def is_silence(error: BaseException | None) -> bool:
    """Whether nothing came, or nothing can be sent; rather than that somebody refused."""
    return isinstance(error, TimeoutError) or (isinstance(error, OSError) and error.errno in NO_WAY)


def _shake(
    endpoint: Endpoint,
    files: TLSFiles,
    context: ssl.SSLContext,
    timeout: float,
    backend: str,
    address: str | None,
) -> Handshake:
    started = time.perf_counter()
    with socket.create_connection((address or endpoint.host, endpoint.port), timeout=timeout) as plain:
        plain.settimeout(_left(timeout, started))
        with context.wrap_socket(plain, server_hostname=endpoint.server_name) as secure:
            elapsed_ms = (time.perf_counter() - started) * 1000
            secure.settimeout(_left(timeout, started))
            _await_welcome(secure, endpoint, files, backend)
            cipher = secure.cipher()
            name = cipher[0] if cipher else ""
            return Handshake(version=str(secure.version()), cipher=name, elapsed_ms=elapsed_ms)


def _left(timeout: float, started: float) -> float:
    return max(timeout - (time.perf_counter() - started), 0.001)


def _unreachable(error: OSError, endpoint: Endpoint, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"{endpoint} did not answer within {timeout:.1f} s"
    if isinstance(error, socket.gaierror):
        return f"the name {endpoint.host} does not resolve"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens on {endpoint}; is the node running?"
    return f"{endpoint} cannot be reached: {error.strerror}"


def _context(files: TLSFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{files.cert}, its key or {files.ca} cannot be used", path=str(files.cert)) from None
    return context


def _await_welcome(secure: ssl.SSLSocket, endpoint: Endpoint, files: TLSFiles, backend: str) -> None:
    """In TLS 1.3 a client is judged after its own handshake is over: a node that refuses it closes, or says why."""
    try:
        if secure.recv(1):
            return
        why = "closed the connection"
    except ssl.SSLError as error:
        why = f"answered {_alert(error)}"
    except ConnectionResetError:
        why = "reset the connection"
    raise AuthenticationFailed(_rejected(endpoint, files, why), backend=backend)


def _rejected(endpoint: Endpoint, files: TLSFiles, why: str) -> str:
    facts = inspect(files.cert)
    return (
        f"{endpoint} {why} when it saw our certificate {files.cert} ({facts.subject}, issued by {facts.issuer}): "
        "it must be issued by the node's authority and be valid by the node's clock"
    )


_VERIFY = {
    9: "is not yet valid; check the clocks",
    10: "has expired; renew it with `hybrid-llm certs`",
    18: "is self-signed, not issued by {ca}",
    19: "is issued by another authority than {ca}",
    20: "is issued by another authority than {ca}",
    7: "has a signature that is not of {ca}; it may be another authority of the same name",
    26: "is not a node's certificate",
    62: "does not name {name}; it was made for other hosts",
    64: "does not name the address {name}; it was made for other hosts",
}
"""OpenSSL's X509_V_ERR codes (x509_vfy.h) in words."""


def _distrust(error: ssl.SSLCertVerificationError, endpoint: Endpoint, files: TLSFiles) -> str:
    says = _VERIFY.get(error.verify_code, f"does not verify: {error.verify_message}")
    return f"the certificate of {endpoint} " + says.format(ca=files.ca, name=endpoint.server_name)


def _no_tls(
    error: ssl.SSLError, endpoint: Endpoint, files: TLSFiles, backend: str
) -> UntrustedPeer | AuthenticationFailed | BackendUnavailable:
    reason = error.reason or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "PACKET_LENGTH_TOO_LONG"):
        return UntrustedPeer(f"{endpoint} does not speak TLS; is it a node of ours?", backend=backend)
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return UntrustedPeer(f"{endpoint} does not speak TLS 1.3, the only version in use", backend=backend)
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return AuthenticationFailed(_rejected(endpoint, files, f"answered {_alert(error)}"), backend=backend)
    return BackendUnavailable(f"the TLS handshake with {endpoint} broke off: {_alert(error)}", backend=backend)


def _alert(error: ssl.SSLError) -> str:
    return (error.reason or "without a reason").replace("_", " ").lower()
