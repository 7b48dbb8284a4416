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
_SMALL: Final = 20
"""What begins with less, and has no part of three digits, is as often a version."""
_NUMBER: Final = re.compile("[0-9]+")
_REACHED: Final = re.compile(rb"(?i)\b(?:from|at|to|via|on) $")


def _is_reached(candidate: Candidate) -> bool:
    """Whether a preposition stands right before what is hardly a version: `release 4 is deployed on 203.0.113.7`."""
    numbers = [int(number) for number in _NUMBER.findall(candidate.value)]
    if max(numbers, default=0) < 100 and numbers[0] < _SMALL:
        return False
    return _REACHED.search(candidate.view.data[max(0, candidate.start - 8) : candidate.start]) is not None


_ABOUT_IP: Final = Context(
    rb"ips?|ipv4|ipv6|(?:ip[ _-]?)?addr(?:ess(?:es)?)?|hosts?(?:name)?|servers?|clients?|peers?|gateways?|dns"
    rb"|name ?servers?|subnets?|cidr|routers?|proxy|proxies|vpn|endpoints?|nodes?|ping(?:s|ed)?|nmap|ssh|telnet|curl"
    rb"|x-forwarded-for|inet"
    rb"|remote(?:_addr)?|src|dst|destination|visitors?|log(?:ged)?[ _-]?ins?|connect(?:s|ed|ions?|ing)?"
    rb"|listen(?:s|ing)?|bind"
    rb"|traceroute|firewall|blocked|banned|machines?|devices?|network|netmask|whois|resolves?|resolved|dhcp|lan|wan|nat"
    rb"|adresse|direccion|indirizzo|endere[xc]o",
    ("地址", "服务器", "主机", "网关", "客户端"),
    loose=rb"from|at|to|via|on",
    told=_is_reached,
)
_VERSION: Final = Context(
    rb"versions?|vers?|releases?d?|builds?|firmware|drivers?|sdk|v|sections?|sect|chapters?|clauses?|articles?"
    rb"|oids?|figures?|fig"
    rb"|appendix|paragraphs?|upgraded?|packages?|revisions?|rev|patch(?:es)?|changelog|tags?|bump(?:s|ed)?"
    rb"|requires?|pins?|pinned|downgraded?",
    ("版本", "章节", "固件", "驱动"),
)
_SPECIFIER: Final = re.compile(rb"[=~<>!]=|[A-Za-z][/-]|\^|~")
"""What stands before the number of a version: `opencv-python==4.8.1.78`, `Chrome/120.0.0.1`."""
_HASHES: Final = (
    rb"hash(?:es|ed)?|sha-?(?:1|2|256|512)?|md5|digests?|checksums?|fingerprints?|g?uuids?|guids?|commits?|etags?"
    rb"|serials?|signatures?"
    rb"|nonces?|colou?rs?|hex|dumps?|payloads?|bytes|examples?|placeholders?|durations?|timestamps?|orders?"
    rb"|tracking|isbn|parts?|skus?"
)
_NO_V6: Final = Context(_HASHES)
_NO_MAC: Final = Context(_HASHES)
_ABOUT_MAC: Final = Context(
    rb"macs?|(?:mac|hw|hardware|ethernet|physical|link|bluetooth|wi-?fi|wlan|device)[ _-]?(?:addr(?:ess(?:es)?)?"
    rb"|ids?)|ether|hwaddr"
    rb"|lladdr|[be]?ssids?|bluetooth|wi-?fi|wlan|lan|nic|arp|dhcp|interfaces?|eth[0-9]|adapters?|access points?"
    rb"|routers?|switch|physikalische adresse|netzwerkadapter",
    ("物理地址", "网卡"),
)
_PATH: Final = rb"MLHVCSQAmlhvcsqa"
_RUN_BEFORE: Final = re.compile(rb"[0-9.,\s" + _PATH + rb"TZtz-]*$")
_RUN_AFTER: Final = re.compile(rb"[0-9.,\s" + _PATH + rb"TZtz-]*")
_COMMAND: Final = re.compile(rb"(?:^|[^A-Za-z_])[" + _PATH + rb"]\s?-?[0-9.]|[0-9]\s?[" + _PATH + rb"]-?[0-9.]")
_NUMBER_BEFORE: Final = re.compile(rb"[0-9.](?:[\s,]{1,3}-?|-)$")
_DECIMAL: Final = re.compile(rb"(?:^|[^0-9.])[0-9]*\.[0-9]+(?:[^0-9.]|$)")
_DECIMAL_BEHIND: Final = re.compile(
    rb"[\s,]{0,3}-?[0-9]*\.[0-9]+(?:[\s,]{1,3}-?[0-9.]|[.-][0-9]|\s?[A-Za-z](?:[^A-Za-z]|$)|\s?[\"'\])/>]|$)"
)
_DECIMALS_BEHIND: Final = re.compile(rb"(?:[\s,]{1,3}-?[0-9]*\.[0-9]+){2}(?:[^0-9.]|$)")
"""In the path of a drawing, or in another row of decimal fractions: its commands and numbers."""
_SIDE: Final = 48
"""How far around a number the row is read of which it may be part."""
_NUMBERED: Final = re.compile(rb"(?:^|[\r\n])[ \t#*>-]{0,6}$")
_TITLE: Final = re.compile(rb"\.?[ \t]{1,3}[A-Z][a-z]")
"""The number of a section stands between the beginning of its line and its title."""


def _v4(candidate: Candidate) -> float:
    octets = [int(part) for part in candidate.value.split(".")]
    if max(octets) > 255 or octets[0] in {0, 127, 255}:
        return 0.0
    data, start, end = candidate.view.data, candidate.start, candidate.end
    if _SPECIFIER.fullmatch(data, max(0, start - 2), start) or _SPECIFIER.fullmatch(data, max(0, start - 1), start):
        return 0.15
    if (drawn := _drawn(data, start, end)) is not None:
        return drawn
    is_private = octets[:2] == [192, 168] or octets[0] == 10 or (octets[0] == 172 and 16 <= octets[1] < 32)
    if is_private:
        return 0.8 if octets[1:3] != [0, 0] else 0.5
    if octets[0] >= _SMALL or max(octets) >= 100:
        return 0.7
    if _DECIMALS_BEHIND.match(data, end):
        return 0.1
    is_section = _NUMBERED.search(data[max(0, start - 8) : start]) and _TITLE.match(data, end)
    return 0.15 if is_section else 0.35


def _drawn(data: bytes, start: int, end: int) -> float | None:
    """The score of what is part of the path of a drawing or of a row of decimal fractions; None for all others."""
    before, behind = data[max(0, start - _SIDE) : start], data[end : end + _SIDE]
    has_number = _NUMBER_BEFORE.search(before) is not None
    if not has_number and not behind[:1].isspace() and behind[:1] not in {b",", b"-"}:
        return None
    runs = [found.group() for found in (_RUN_BEFORE.search(before), _RUN_AFTER.match(behind)) if found]
    commands = sum(len(_COMMAND.findall(run)) for run in runs)
    if commands > 2 or (commands and any(map(_DECIMAL.search, runs))):
        return 0.0
    return 0.1 if has_number and _DECIMAL_BEHIND.match(behind) else None


def _v6(candidate: Candidate) -> float:
    """Valid by RFC 4291, and longer than the `1::2` and `a::b` of program text."""
    try:
        address = ipaddress.IPv6Address(candidate.value.partition("%")[0])
    except ValueError:
        return 0.0
    groups = [group for group in candidate.value.split(":") if group]
    is_long = len(groups) > 3 or (len(groups) > 1 and max(map(len, groups)) > 2)
    has_digit = any(map(str.isdigit, candidate.value))
    return 0.75 if is_long and has_digit and not (address.is_unspecified or address.is_loopback) else 0.0


def _mac(candidate: Candidate) -> float:
    digits = "".join(filter(str.isalnum, candidate.value)).lower()
    dotted_number = "." in candidate.value and digits.isdigit()
    return 0.0 if dotted_number or digits in {"0" * 12, "f" * 12} else 0.75


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
        near=_ABOUT_IP,
        against=_NO_V6,
        needs=b":",
    ),
)

_MAC: Final = rb"(?:%(x)s{2}:){5}%(x)s{2}|(?:%(x)s{2}-){5}%(x)s{2}|(?:%(x)s{4}\.){2}%(x)s{4}" % {b"x": rb"[0-9A-Fa-f]"}
MAC_ADDRESS: Final = (Pattern(apart(_MAC, rb"0-9A-Za-z:-", rb"0-9A-Za-z:-"), _mac, near=_ABOUT_MAC, against=_NO_MAC),)
