"""Texts inside encoded runs: base64 (RFC 4648, both alphabets, whole or in lines), hexadecimal, quoted-printable.

A run counts only where it decodes to text. Other text may stand right before it, as in a path or behind `_`: base64 is
then read from each of the four places where a group may begin, and what is readable counts as a run of its own.

Characters that nobody sees can carry a text as well. What they say is not decoded: `hidden` gives their places, which
every detector reports.
"""

from __future__ import annotations

import binascii
import codecs
import quopri
import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.looks import looked
from hybrid_llm.router.privacy.detectors.text import Regex, View

_RUN: Final = Regex(
    rb"[A-Za-z0-9+/_-]*(?:[a-z][A-Za-z0-9+/_-]*[A-Z]|[A-Z][A-Z0-9+/_-]+[a-z])[A-Za-z0-9+/_-]*={0,2}"
    rb"(?:[ \t>\"]{0,8}\r?\n[ \t>\"]{0,8}[A-Za-z0-9+/_-]{8,}={0,2})*"
    rb"(?:[ \t>\"]{0,8}\r?\n[ \t>\"]{0,8}[A-Za-z0-9+/_-]{1,7}={0,2})?"
)
_HEX: Final = Regex(rb"[0-9a-fA-F]{12,}")
_PAIRS: Final = Regex(
    rb"(?:^|[^0-9A-Za-z])((?:(?:0[xX])?[0-9a-fA-F]{2}[ ,:-]{1,3}){5,}(?:0[xX])?[0-9a-fA-F]{2})(?:[^0-9A-Za-z]|$)"
)
"""Bytes in pairs of digits: `35 31`, `35:31`, `0x35, 0x31`."""
_PAIR: Final = re.compile("(?:0[xX])?([0-9a-fA-F]{2})")
_PRINTABLE: Final = Regex(
    rb"[!-~]*(?:=[0-9A-F]{2}[!-~]{0,3}=[0-9A-F]{2}|[A-Za-z0-9]=(?:40|20|2D|2E)[A-Za-z0-9]|[!-~]=\r?\n[!-~])[!-~]*"
)
_LINE: Final = re.compile(r"[A-Za-z0-9+/_=-]+")
_UNTEXTUAL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_READABLE: Final = re.compile(rb"[\t\n\r -~]{8,}")
_STANDARD: Final = str.maketrans("-_", "+/", '= \t>"\r\n')
_SHORTEST: Final = 8
"""Characters of the shortest run that is decoded."""
_JOINED: Final = 14
"""Characters of the shortest run in which base64 may begin anywhere."""
_BYTE_ORDERS: Final = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_MARKS: Final = frozenset(mark[:1] for mark, _ in _BYTE_ORDERS)
_INVISIBLE: Final = re.compile(
    "[\U000e0000-\U000e01ef\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\u180e\u00ad]"
)
_FLAG: Final = re.compile("\U0001f3f4[\U000e0061-\U000e007a\U000e0030-\U000e0039]{3,6}\U000e007f")
"""The flag of a region, such as Scotland's: the only use of tag characters."""
_HIDDEN: Final = re.compile(
    "[\U000e0000-\U000e007f]+|[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}|[A-Za-z][\ufe00-\ufe0f\U000e0100-\U000e01ef]"
    "|[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\u180e]{4,}"
)

_Run = tuple[int, int, str]
"""Start and end of an encoded run in the original text, and the text that it decodes to."""


def embedded(view: View) -> Iterator[_Run]:
    """Yield each run that decodes to text."""
    for found in looked(_RUN.finditer(view.data)):
        if found.end - found.start >= _SHORTEST:
            raw = view.data[found.start : found.end].decode("latin-1")
            yield from (
                (*view.origin(found.start + start, found.start + end), text) for start, end, text in _base64(raw)
            )
    for found in looked(_HEX.finditer(view.data)) if view.digits else ():
        for start, text in _from_hex(view.data[found.start : found.end].decode("latin-1")):
            yield *view.origin(found.start + start, found.end), text
    for found in looked(_PAIRS.finditer(view.data)) if view.digits else ():
        pairs = "".join(_PAIR.findall(view.data[found.start : found.end].decode("latin-1")))
        shown = as_text(bytes.fromhex(pairs))
        if shown is not None:
            yield *view.origin(found.start, found.end), shown
    for found in looked(_PRINTABLE.finditer(view.data)) if b"=" in view.data else ():
        text = quopri.decodestring(view.data[found.start : found.end]).decode("utf-8", "replace")
        yield *view.origin(found.start, found.end), text


def hidden(text: str) -> list[tuple[int, int]]:
    """The places of characters that nobody sees and that may carry a text."""
    if text.isascii() or _INVISIBLE.search(text) is None:
        return []
    flags = {match.start() + 1 for match in _FLAG.finditer(text)}
    return [match.span() for match in _HIDDEN.finditer(text) if match.start() not in flags]


def _base64(raw: str) -> Iterator[_Run]:
    """What a run says as a whole, else each of its lines, else from any of its characters on."""
    text, lines = _whole(raw), list(_LINE.finditer(raw))
    if text is not None:
        yield 0, len(raw), text
        if len(lines) > 1 and len(lines[-1].group()) < _SHORTEST:  # it may be a word
            yield from _base64(raw[: lines[-2].end()])
        return
    if len(lines) > 1:
        for line in looked(lines, 16):
            if len(line.group()) >= _SHORTEST:
                yield from (
                    (line.start() + start, line.start() + end, text) for start, end, text in _base64(line.group())
                )
    elif len(raw) >= _JOINED:
        yield from _anywhere(raw)


def _whole(raw: str) -> str | None:
    compact = raw.translate(_STANDARD)
    try:
        return as_text(binascii.a2b_base64(compact + "=" * (-len(compact) % 4)))
    except binascii.Error:
        return None


def _anywhere(raw: str) -> Iterator[_Run]:
    """The readable parts of base64 that begins behind other text; the run up to its end counts."""
    compact = raw.rstrip("=").translate(_STANDARD)
    for shift in range(4):
        part = compact[shift : shift + (len(compact) - shift) // 4 * 4]
        rest = compact[shift + len(part) :]
        data = binascii.a2b_base64(part + (rest + "=" * (4 - len(rest)) if len(rest) > 1 else ""))
        narrow = data.replace(b"\0", b"") if data.count(0) * 3 > len(data) else data
        if (readable := _READABLE.search(narrow)) is not None:
            start = 0 if narrow is not data else shift + readable.start() // 3 * 4
            yield start, len(raw), " ".join(match.group().decode("ascii") for match in _READABLE.finditer(narrow))


def _from_hex(raw: str) -> Iterator[tuple[int, str]]:
    for shift in range(2):
        digits = raw[shift : shift + (len(raw) - shift) // 2 * 2]
        data = bytes.fromhex(digits)
        text = as_text(data)
        if text is None and (readable := _READABLE.search(data)) is not None:
            text = readable.group().decode("ascii")
        if text is not None and not text.isspace():
            yield shift, text


def as_text(data: bytes) -> str | None:
    """*data* as text in UTF-8, or in UTF-16 by its mark or where every second byte is zero; None if it is neither."""
    try:
        text = data.decode(_charset(data) if b"\0" in data or data[:1] in _MARKS else "utf-8")
    except UnicodeDecodeError:
        return None
    return None if not text or _UNTEXTUAL.search(text) else text.removeprefix("\ufeff")


def _charset(data: bytes) -> str:
    for mark, name in _BYTE_ORDERS:
        if data.startswith(mark):
            return name
    half = len(data) // 2
    if half and data[1::2].count(0) == half:
        return "utf-16-le"
    return "utf-16-be" if half and data[::2].count(0) == len(data) - half else "utf-8"
