"""One canonical form of a host: what look-ups, certificates, our TLS handshake and gRPC all see.

Each reads a spelling in its own way: gRPC compares an IPv6 address with that of a certificate as text, and knows no
Unicode in names. So every host is brought into one form where it enters, and what has none is refused there.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LONGEST: Final = 253


def canonical_host(host: str) -> str:
    """*host* as an IP address in its shortest form (RFC 5952), or as a DNS name in lower-case ASCII (RFC 5890).

    An IPv4 address that is mapped into IPv6 becomes IPv4; the dot at the end of a name is dropped.

    Raises:
        ValueError: it is neither; the message says why.
    """
    address = as_address(host)
    return _name(host) if address is None else _address(address)


def certifiable_host(host: str) -> str:
    """Do as `canonical_host`, for a host that a certificate is to name: `*.` may stand before a name.

    Raises:
        ValueError: no client could reach a node under it, or verify it.
    """
    if host.startswith("*."):
        name = _name(host[2:])
        if "." not in name:
            raise ValueError(f"`{host}` covers a whole top-level domain, which no client accepts")
        return f"*.{name}"
    found = canonical_host(host)
    address = as_address(found)
    if address is None:
        return found
    if address.is_unspecified or address.is_multicast or found == "255.255.255.255":
        raise ValueError(f"`{host}` is no address of one machine; name the address that clients use")
    if address.version == 6 and address.is_link_local:
        raise ValueError(
            f"`{host}` is valid on one link only, and no target can name it; use another address or a name"
        )
    return found


def canonical_address(text: str, *, lowest_port: int = 1) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPv6]:PORT`, the host in its canonical form.

    Raises:
        ValueError: it is neither; the message says why.
    """
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and len(port) < 6 and lowest_port <= int(port) < 65_536):
        raise ValueError(f"`{text}` is not HOST:PORT; write node.example:7443, 127.0.0.1:7443 or [::1]:7443")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed is not (":" in host):
        raise ValueError(f"`{text}` is not HOST:PORT; an IPv6 address, and only that, stands in brackets: [::1]:7443")
    try:
        return canonical_host(host[1:-1] if bracketed else host), int(port)
    except ValueError as error:
        raise ValueError(f"`{text}` is not HOST:PORT: {error}") from None


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def as_address(host: str) -> _Address | None:
    """*host* as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _address(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.scope_id is not None:
        raise ValueError(
            f"`{address}`: a zone (`%{address.scope_id}`) cannot be part of a certificate; use a host name"
        )
    return str(address.ipv4_mapped or address)


def _name(host: str) -> str:
    if ":" in host or "%" in host:
        raise ValueError(f"`{host}` is no IP address; one of IPv6 is written like ::1, without a zone")
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise ValueError(
            f"`{host}` is no host name: a part of it is empty, too long, or has characters that none may have"
        ) from None
    labels = name.split(".")
    if len(name) > _LONGEST or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            f"`{host}` is no host name: parts of 1 to 63 letters, digits and hyphens, with dots between, at most 253"
        )
    if _NUMERIC.fullmatch(labels[-1]):
        raise ValueError(f"`{host}` ends in a number and is no IPv4 address, which is four numbers from 0 to 255")
    return name


def is_loopback(host: str) -> bool:
    """Whether *host* is an address that never leaves this machine; a name, even `localhost`, may lead elsewhere."""
    address = as_address(host)
    return address is not None and address.is_loopback


def is_this_machine(host: str) -> bool:
    """Whether *host* is a loopback address, or `localhost`."""
    return host == "localhost" or is_loopback(host)
