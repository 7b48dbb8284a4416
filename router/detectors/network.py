"""Addresses in networks: IPv4, IPv6 and MAC. Those that are the same on every machine tell nothing and are left."""

from __future__ import annotations

import ipaddress
from typing import Final

from hybrid_llm.router.detectors.evidence import Candidate, Context, Pattern
from hybrid_llm.router.detectors.linear import linear

__all__ = ["IP_ADDRESS", "MAC_ADDRESS"]

_QUAD: Final = rb"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_VERSION: Final = Context(
    rb"versions?|ver|release|build|firmware|driver|sdk|v|sections?|chapter|clause", ("版本",), before=24, after=8
)


def _v4(candidate: Candidate) -> float:
    octets = [int(part) for part in candidate.value.split(".")]
    if max(octets) > 255 or octets[0] in {0, 127, 255}:
        return 0.0
    return 0.5 if octets[0] < 20 and max(octets) < 100 else 0.7


def _v6(candidate: Candidate) -> float:
    """Written as RFC 4291 has it, and more than the `1::2` and `a::b` of program text."""
    try:
        address = ipaddress.IPv6Address(candidate.value.partition("%")[0])
    except ValueError:
        return 0.0
    groups = [group for group in candidate.value.split(":") if group]
    is_long = len(groups) > 3 or (len(groups) > 1 and max(map(len, groups)) > 2)
    has_digit = any(map(str.isdigit, candidate.value))
    return 1.0 if is_long and has_digit and not (address.is_unspecified or address.is_loopback) else 0.0


def _mac(candidate: Candidate) -> float:
    digits = "".join(filter(str.isalnum, candidate.value)).lower()
    dotted_number = "." in candidate.value and digits.isdigit()
    return 0.0 if dotted_number or digits in {"0" * 12, "f" * 12} else 1.0


IP_ADDRESS: Final = (
    Pattern(
        linear(rb"(?:^|[^0-9A-Za-z_.]|[^0-9]\.)(" + _QUAD + rb")(?:[^0-9A-Za-z_.]|_|\.(?:[^0-9A-Za-z]|$)|$)"),
        _v4,
        against=_VERSION,
        needs=b".",
    ),
    Pattern(
        linear(
            rb"(?:^|[^0-9A-Za-z_:.])([0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:[0-9]?"
            + _QUAD
            + rb")?(?:%[0-9a-z]{1,8})?)"
            rb"(?:[^0-9A-Za-z_:]|$)"
        ),
        _v6,
        needs=b":",
    ),
)

MAC_ADDRESS: Final = (
    Pattern(
        linear(
            rb"(?i)(?:^|[^0-9a-z:-])((?:[0-9a-f]{2}:){5}[0-9a-f]{2}|(?:[0-9a-f]{2}-){5}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4})"
            rb"(?:[^0-9a-z:-]|$)"
        ),
        _mac,
    ),
)
