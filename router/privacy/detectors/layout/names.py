"""Names of several words that are joined as in `phoneNumber`, with their words apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors.text import View

_JOINT: Final = re.compile(rb"([a-z0-9])([A-Z])")
_CASES: Final = bytes(
    ord("a") if chr(byte).islower() and byte < 128 else ord("A") if chr(byte).isupper() and byte < 128 else ord(" ")
    for byte in range(256)
)
"""Every lower-case letter as `a` and every capital as `A`."""
_IN_NAMES: Final = bytes(byte for byte in range(128) if chr(byte).isalnum() or byte == ord("_"))
_NAME: Final = re.compile(rb"[A-Za-z0-9_]{1,48}")
_LONGEST_NAME: Final = 24
"""How many characters of a name before a capital are looked at."""


class Names(NamedTuple):
    """The names in a view that are joined as in `phoneNumber`: where each stands, and all with their words apart."""

    spans: Sequence[tuple[int, int]]
    apart: View
    begins: Sequence[int]
    """Where each name begins in `apart`."""


def joined_names(view: View) -> Names:
    """The joined names in *view*, found once."""
    if joined_names not in view.notes:
        spans = _spans(view.data)
        parts = [_apart(view.data[start:end]) for start, end in spans]
        begins = [0, *accumulate(len(part) + 1 for part in parts)]
        view.notes[joined_names] = Names(spans, View("", b"\n".join(parts)), begins)
    noted: Names = view.notes[joined_names]
    return noted


def _spans(data: bytes) -> list[tuple[int, int]]:
    cases = data.translate(_CASES)
    spans: list[tuple[int, int]] = []
    at = cases.find(b"aA")
    while at >= 0:
        before = data[max(0, at - _LONGEST_NAME) : at]
        start = at - len(before) + len(before.rstrip(_IN_NAMES))
        match = _NAME.match(data, start)
        end = match.end() if match is not None else at + 1
        spans.append((start, end))
        at = cases.find(b"aA", end)
    return spans


def _apart(names: bytes) -> bytes:
    return _JOINT.sub(rb"\1 \2", names).replace(b"_", b" ")
