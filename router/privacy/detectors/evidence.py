"""Scores what a pattern matched by its format, its checksum and the words around it.

A match counts as a find when its score reaches `THRESHOLD`. A format that is rarely met by chance scores that much
alone; a weaker one needs a valid checksum or a word nearby. A checksum is therefore evidence, not a filter: a mistyped
card number is found where the text says `card`. The checksums at the end take compact text, without separators.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors.folding import Regex, linear
from hybrid_llm.router.privacy.detectors.views import View

THRESHOLD: Final = 0.5
"""The score from which a find counts."""
CONTEXT: Final = 0.3
"""What a word near a find adds to its score, or takes from it."""
_BEFORE: Final = 60
_AFTER: Final = 24
_NO_DIGITS: Final = bytes(byte for byte in range(256) if not 48 <= byte <= 57)
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PERMUTED: Final = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
_DIHEDRAL: Final = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
"""Verhoeff's permutations and the multiplication table of the dihedral group D5."""
_PLAIN: Final = bytes(byte - 48 if 48 <= byte <= 57 else 0 for byte in range(256))
_DOUBLED: Final = bytes(sum(divmod(2 * plain, 10)) for plain in _PLAIN)
"""Luhn's digits, plain and doubled, as tables for `bytes.translate`."""


class Candidate(NamedTuple):
    """What a pattern matched: the characters *start* to *end* (exclusive) of *view*."""

    view: View
    start: int
    end: int

    @property
    def value(self) -> str:
        """The folded text: the digits of every script as ASCII."""
        return self.view.data[self.start : self.end].decode("latin-1")

    @property
    def digits(self) -> str:
        """Only the digits of the value."""
        return self.view.data[self.start : self.end].translate(None, _NO_DIGITS).decode("ascii")


@dataclass(frozen=True, eq=False)
class Context:
    """Words near a match: *words* is an RE2 pattern, case-insensitive; *chinese* words match literally."""

    words: bytes
    chinese: tuple[str, ...] = ()
    before: int = _BEFORE
    after: int = _AFTER

    @cached_property
    def _regex(self) -> Regex:
        return linear(rb"(?i)(?:\b|_)(?:" + self.words + rb")(?:\b|_|[0-9])")

    def within(self, view: View) -> bool:
        """Whether one of the words occurs in *view*."""
        return bool(self._positions(view))

    def around(self, candidate: Candidate) -> bool:
        """Whether one of the words occurs near *candidate*."""
        positions = self._positions(candidate.view)
        index = bisect_left(positions, candidate.start - self.before)
        while index < len(positions) and positions[index] < candidate.end + self.after:
            if not candidate.start < positions[index] < candidate.end:
                return True
            index += 1
        return False

    def _positions(self, view: View) -> Sequence[int]:
        """Where the words begin in *view*, searched for once per view."""
        if self not in view.notes:
            positions = [found.start for found in self._regex.finditer(view.data)]
            if self.chinese and not view.text.isascii():
                positions = sorted([*positions, *(start for word in self.chinese for start in view.find(word))])
            view.notes[self] = positions
        return view.notes[self]


def _always(_: Candidate) -> float:
    return 1.0


@dataclass(frozen=True, eq=False)
class Pattern:
    """One format of a kind of value: its expression, its score, and the words that count for or against it.

    Attributes:
        regex: The value is its group, or the whole match where it has none.
        score: From 0 to 1; below `THRESHOLD - CONTEXT` no word nearby can make it count.
        near: Words that raise the score.
        against: Words that lower the score.
        weak: Only counts near a word of *near*; texts without one are not searched.
        needs: Text without this is not searched: lower-case characters, found in any case, or `6` or `9` for a number
            of that many digits.
    """

    regex: Regex
    score: Callable[[Candidate], float] = _always
    near: Context | None = None
    against: Context | None = None
    weak: bool = False
    needs: bytes = b""

    def spans(self, view: View, known: bytearray) -> Iterator[tuple[int, int]]:
        """Yield the finds in *view* that do not lie within the characters that *known* marks."""
        for start, end, _ in self.regex.finditer(view.data):
            if not (known[start] and known[end - 1]) and self.accepts(Candidate(view, start, end)):
                yield start, end

    def may_match(self, view: View) -> bool:
        """Whether *view* holds what every match needs: a quick test that spares most searches."""
        if self.needs == b"9":
            present = view.has_long_number
        else:
            present = view.has_number if self.needs == b"6" else self.needs in view.lower
        if not present:
            return False
        return not self.weak or self.near is None or self.near.within(view)

    def accepts(self, candidate: Candidate) -> bool:
        """Whether the evidence for *candidate* is sufficient."""
        score = self.score(candidate)
        if score < THRESHOLD - CONTEXT:
            return False
        if self.against is not None and self.against.around(candidate):
            score -= CONTEXT
        if score < THRESHOLD and self.near is not None and self.near.around(candidate):
            score += CONTEXT
        return score >= THRESHOLD - 1e-9  # sums such as 0.2 + 0.3 may fall just short


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, Annex B."""
    raw = digits.encode("ascii")
    total = sum(raw[-1::-2].translate(_PLAIN)) + sum(raw[-2::-2].translate(_DOUBLED))
    return total % 10 == 0 and len(set(digits)) > 1


def mod97(compact: str) -> bool:
    """ISO 13616, IBAN: the first four characters move to the end, letters become numbers."""
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def mod11_2(compact: str) -> bool:
    """GB 11643 (ISO 7064 MOD 11-2): the Chinese resident identity number."""
    total = sum(int(c) * (2 ** (17 - i) % 11) for i, c in enumerate(compact[:17]))
    return "10X98765432"[total % 11] == compact[17].upper()


def weighted(digits: Sequence[int], weights: Sequence[int], modulus: int) -> bool:
    """Whether the weighted sum of *digits* is a multiple of *modulus*."""
    return sum(d * w for d, w in zip(digits, weights, strict=True)) % modulus == 0


def verhoeff(digits: str) -> bool:
    """J. Verhoeff, Error Detecting Decimal Codes (1969): the Aadhaar number of India."""
    check = 0
    for i, digit in enumerate(reversed(digits)):
        check = int(_DIHEDRAL[check][int(_PERMUTED[i % 8][int(digit)])])
    return check == 0


def base58check(address: str) -> bool:
    """Bitcoin's Base58Check: the last four bytes are a double SHA-256 of the others."""
    number = 0
    for char in address:
        number = number * 58 + _BASE58.index(char)
    if number.bit_length() > 200:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def bech32(address: str) -> bool:
    """BIP 173 and BIP 350 (bech32m)."""
    prefix, _, data = address.lower().rpartition("1")
    expanded = [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *(_BECH32.find(c) for c in data)]
    check = 1
    for value in expanded:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATORS):
            check ^= generator if top >> i & 1 else 0
    return check in {1, 0x2BC830A3}
