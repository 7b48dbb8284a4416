"""Texts inside encoded runs: base64 (RFC 4648, both alphabets, in one line or in MIME lines) and hexadecimal.

A run counts only where it decodes to text.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors.text import Regex, View

_RUN: Final = Regex(
    rb"[A-Za-z0-9+/_-]{56,}(?:\r?\n[A-Za-z0-9+/_-]{56,})*(?:\r?\n[A-Za-z0-9+/_-]{1,76})?={0,2}|[A-Za-z0-9+/_-]{14,}={0,2}"
)
_LINE: Final = re.compile(r"\S+")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_UNTEXTUAL: Final = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_STANDARD: Final = str.maketrans("-_", "+/", "=\r\n")

_Run = tuple[int, int, str]
"""Start and end of an encoded run in the original text, and the text that it decodes to."""


def embedded(view: View) -> Iterator[_Run]:
    """Yield each run of base64 or hexadecimal that decodes to text."""
    for found in _RUN.finditer(view.data):
        raw = view.data[found.start : found.end].decode("latin-1")
        text = _decoded(raw)
        if text is not None:
            yield *view.origin(found.start, found.end), text
        elif "\n" in raw:
            yield from _lines(view, raw, found.start)


def _lines(view: View, raw: str, offset: int) -> Iterator[_Run]:
    """Adjacent lines that do not decode as one run: each may be a run of its own."""
    for line in _LINE.finditer(raw):
        text = _decoded(line.group())
        if text is not None:
            yield *view.origin(offset + line.start(), offset + line.end()), text


def _decoded(raw: str) -> str | None:
    compact = raw.translate(_STANDARD)
    if _HEX.fullmatch(compact) and (text := _as_text(bytes.fromhex(compact))) is not None:
        return text
    if compact.islower() or compact.isupper():
        return None  # a word or joined words: base64 of a text has letters of both cases
    try:
        return _as_text(binascii.a2b_base64(compact + "=" * (-len(compact) % 4)))
    except binascii.Error:
        return None


def _as_text(data: bytes) -> str | None:
    """*data* as text in UTF-8, or in UTF-16 where every second byte is zero; None if it is neither."""
    if data[1::2].count(0) == len(data) // 2 > 0:
        data = data[::2]  # UTF-16 in ASCII
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if _UNTEXTUAL.search(text) else text
