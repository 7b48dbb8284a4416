"""Valid bytes with a few changes, and bytes of no kind: what parsers and nodes are fuzzed with."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final

from hypothesis import strategies as st

_WORDS: Final = re.compile(rb"(\W+)")
_VALUES: Final = re.compile(rb"(\"[^\"]*\"|[^\s=,{}\[\]()]+)")
PIECES: Final = (
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n",
    b" ",
    b"-",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"1900-01-01T00:00:00Z",
    b"9999-12-31T23:59:59Z",
    b"9" * 25,
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 1500,
    b"a: {" * 400,
    b"\xed\xa0\x80",
    b'"\\ud800"',
    "\u0661".encode(),
    "\u202e".encode(),
    b"\xff" * 9 + b"\x01",
    b"A" * 10_000,
    b"%00",
    b"../",
    b"&a [*a, *a]",
    b"!!python/object:os.system",
    b"-----BEGIN PUBLIC KEY-----",
    b"\x7f\xff\xff\xff",
    b"\x80" * 11,
)
"""What breaks parsers: ends of ranges, depth, lone surrogates, other digits, overlong varints."""
Edit = tuple[str, int, bytes]


def _word(data: bytes, at: int, piece: bytes) -> bytes:
    """*piece* in place of a word."""
    parts = _WORDS.split(data)
    parts[2 * (at % ((len(parts) + 1) // 2))] = piece
    return b"".join(parts)


def _value(data: bytes, at: int, piece: bytes) -> bytes:
    """*piece* in place of a text in quotes, or of all between two spaces or brackets."""
    parts = _VALUES.split(data)
    if len(parts) > 1:
        parts[2 * (at % (len(parts) // 2)) + 1] = piece
    return b"".join(parts)


_EDITS: Final[dict[str, Callable[[bytes, int, bytes], bytes]]] = {
    "insert": lambda data, at, piece: data[:at] + piece + data[at:],
    "overwrite": lambda data, at, piece: data[:at] + piece + data[at + len(piece) :],
    "flip": lambda data, at, piece: data[:at] + bytes(byte ^ (1 << len(piece) % 8) for byte in data[at : at + 1])
    + data[at + 1 :],
    "delete": lambda data, at, piece: data[:at] + data[at + 1 + len(piece) :],
    "repeat": lambda data, at, piece: data[:at] + data[at : at + 1 + len(piece)] * 3 + data[at:],
    "cut": lambda data, at, _: data[:at],
    "word": _word,
    "value": _value,
}  # fmt: skip


def edited(data: bytes, edit: Edit) -> bytes:
    """*data* with one change."""
    kind, at, piece = edit
    return _EDITS[kind](data, at if kind in ("word", "value") else at % (len(data) + 1), piece)


EDITS: Final = st.tuples(
    st.sampled_from(sorted(_EDITS)), st.integers(0, 2**16), st.sampled_from(PIECES) | st.binary(max_size=12)
)


def mutated(seeds: Sequence[bytes], *, edits: int = 4) -> st.SearchStrategy[bytes]:
    """One of *seeds* with up to so many *edits*, or random bytes."""
    changes = st.lists(EDITS, max_size=edits)
    changed = st.builds(lambda data, them: reduce(edited, them, data), st.sampled_from(list(seeds)), changes)
    return st.one_of(changed, changed, changed, st.binary(max_size=300))
