"""Patterns for network addresses: IPv4, IPv6 and MAC.

Those that are the same on every machine, such as loopback, identify no one and are not reported.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.text import Regex, apart

_QUAD: Final = rb"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_ABOUT_IP: Final = Context(
    rb"ips?|ipv4|ipv6|(?:ip[ _-]?)?addr(?:ess(?:es)?)?|hosts?(?:name)?|servers?|clients?|peers?|gateways?|dns"
    rb"|name ?servers?"
    rb"|subnets?|cidr|routers?|proxy|proxies|vpn|endpoints?|nodes?|ping(?:s|ed)?|nmap|ssh|telnet|curl|x-forwarded-for|inet"
    rb"|remote(?:_addr)?|src|dst|destination|visitors?|log(?:ged)?[ _-]?ins?|connect(?:s|ed|ions?|ing)?"
    rb"|listen(?:s|ing)?|bind"
    rb"|traceroute|firewall|blocked|banned|machines?|devices?|network|netmask|whois|resolves?|resolved|dhcp|lan|wan|nat"
    rb"|adresse|direccion|indirizzo|endere[xc]o",
    ("地址", "服务器", "主机", "网关", "客户端"),
    loose=rb"from|at|to|via|on",
)
_VERSION: Final = Context(
    rb"versions?|vers?|releases?d?|builds?|firmware|drivers?|sdk|v|sections?|sect|chapters?|clauses?|articles?|oids?|figures?|fig"
    rb"|appendix|paragraphs?|upgraded?|packages?|revisions?|rev|patch(?:es)?|changelog|tags?",
    ("版本", "章节", "固件", "驱动"),
)
_SPECIFIER: Final = re.compile(rb"[=~<>!]=|[A-Za-z][/-]|\^|~")
"""What stands before the number of a version: `opencv-python==4.8.1.78`, `Chrome/120.0.0.1`."""
_BESIDE: Final = re.compile(rb"[0-9](?:[ ,]{1,2}|-)")
_FRACTION: Final = re.compile(rb"[ ,]{0,2}-?[0-9]*\.[0-9]+(?:[^0-9.]|$)")


def _v4(candidate: Candidate) -> float:
    octets = [int(part) for part in candidate.value.split(".")]
    if max(octets) > 255 or octets[0] in {0, 127, 255}:
        return 0.0
    data, start, end = candidate.view.data, candidate.start, candidate.end
    if _SPECIFIER.fullmatch(data, max(0, start - 2), start) or _SPECIFIER.fullmatch(data, max(0, start - 1), start):
        return 0.15
    if _BESIDE.fullmatch(data, max(0, start - 2), start) and not data[max(0, start - 2) : start].isspace():
        return 0.15 if _FRACTION.match(data, end) or octets[0] < 10 else 0.5
    if _FRACTION.match(data, end):
        return 0.15  # a row of decimal fractions, as in the path of an SVG
    is_private = octets[:2] == [192, 168] or octets[0] == 10 or (octets[0] == 172 and 16 <= octets[1] < 32)
    return 0.8 if is_private and octets[1:3] != [0, 0] else 0.5 if octets[0] < 20 and max(octets) < 100 else 0.7


def _v6(candidate: Candidate) -> float:
    """Valid by RFC 4291, and longer than the `1::2` and `a::b` of program text."""
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
        Regex(rb"(?:^|[^0-9A-Za-z_.]|[^0-9]\.)(" + _QUAD + rb")(?:[^0-9A-Za-z_.]|_|\.(?:[^0-9A-Za-z]|$)|$)"),
        _v4,
        near=_ABOUT_IP,
        against=_VERSION,
        needs=b".",
    ),
    Pattern(
        apart(
            rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:[0-9]?" + _QUAD + rb")?(?:%[0-9a-z]{1,8})?",
            rb"0-9A-Za-z_:.",
            rb"0-9A-Za-z_:",
        ),
        _v6,
        needs=b":",
    ),
)

_MAC: Final = rb"(?:%(x)s{2}:){5}%(x)s{2}|(?:%(x)s{2}-){5}%(x)s{2}|(?:%(x)s{4}\.){2}%(x)s{4}" % {b"x": rb"[0-9A-Fa-f]"}
MAC_ADDRESS: Final = (Pattern(apart(_MAC, rb"0-9A-Za-z:-", rb"0-9A-Za-z:-"), _mac),)
