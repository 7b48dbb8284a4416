"""Canaries: texts that occur nowhere else, and the search for them in everything that left, in any encoding.

A text is found raw, in another case, reversed, percent-encoded, with JSON escapes, as hexadecimal and in base64 at each
of its three offsets; so are parts of it, from 8 characters on.
"""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from urllib.parse import unquote

import numpy as np

__all__ = ["PIECE", "Canaries", "leaked"]

PIECE = 8
"""The shortest piece of a canary that counts, characters; eight bytes, so that it is one number of 64 bits."""

_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_HEX = re.compile(r"[0-9a-f]{16,}")


class Canaries:
    """Draws texts of which no piece was drawn before, so that whatever is found was meant."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._taken: set[str] = set()

    def word(self, length: int = 16) -> str:
        """Letters that mean nothing and that no detector takes for something."""
        return self._new(lambda: self._letters(length))

    def value(self, kind: str) -> str:
        """A value that the detector of *kind* finds."""
        return self._new(lambda: getattr(self, f"_{kind}")())

    def _new(self, draw: Callable[[], str]) -> str:
        while True:
            text = draw()
            between = f" {text.casefold()} "  # as one word among others
            pieces = set(_pieces(between)) | set(_pieces(between[::-1]))
            if self._taken.isdisjoint(pieces):
                self._taken |= pieces
                return text

    def _letters(self, length: int) -> str:
        return "".join(self._random.choices(string.ascii_lowercase, k=length))

    def _digits(self, length: int) -> str:
        return "".join(self._random.choices("123456789", k=length))

    def _email(self) -> str:
        return f"{self._letters(12)}@{self._letters(10)}.org"

    def _us_ssn(self) -> str:
        return f"{self._random.randint(100, 599)}-{self._random.randint(11, 99)}-{self._random.randint(1111, 9999)}"

    def _payment_card(self) -> str:
        digits = "4" + self._digits(14)
        digits += _luhn_digit(digits)
        return " ".join(digits[i : i + 4] for i in range(0, 16, 4))

    def _medical_record(self) -> str:
        pairs = zip(self._random.choices("BCDFGHJKLMNPQRSTVWXZ", k=6), self._digits(6), strict=True)
        return f"MRN {''.join(map(''.join, pairs))}"  # digits alone would stand in some figure, by chance

    def _credential(self) -> str:
        return "AKIA" + "".join(self._random.choices("BCDFGHJKLMNPQRSTVWXYZ234567", k=16))

    def _codeword(self) -> str:
        return f"XQ-{self._letters(14)}"


def _luhn_digit(digits: str) -> str:
    """The last digit of a payment card whose others are *digits* (ISO/IEC 7812-1)."""
    doubled = (sum(divmod(2 * int(c), 10)) if i % 2 == 0 else int(c) for i, c in enumerate(reversed(digits)))
    return str(-sum(doubled) % 10)


def _pieces(text: str) -> Iterator[str]:
    return (text[i : i + PIECE] for i in range(len(text) - PIECE + 1))


def _base64_cores(text: str) -> Iterator[str]:
    """What *text* looks like inside base64, at each offset, without the letters that its neighbours share."""
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + text.encode()).decode().rstrip("=")
        yield encoded[(offset * 8 + 5) // 6 : len(encoded) - 1]


def leaked(canaries: Iterable[str], told: str | bytes) -> list[str]:
    """Those of *canaries* of which a part is in *told*."""
    texts = list(canaries)
    if not texts:
        return []
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
    folded, exact = zip(*map(_needles, texts), strict=True)
    if not (_any_in(folded, " ".join(_readings(text))) or _any_in(exact, text)):
        return []
    return [text for text, *needles in zip(texts, folded, exact, strict=True) if _found(needles, told)]


def _found(needles: Sequence[np.ndarray], told: str | bytes) -> bool:
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
    return _any_in(needles[:1], " ".join(_readings(text))) or _any_in(needles[1:], text)


def _any_in(needles: Sequence[np.ndarray], text: str) -> bool:
    sought = np.sort(np.concatenate(needles))
    windows = _windows(text)
    places = np.minimum(np.searchsorted(sought, windows), len(sought) - 1)
    return bool((sought[places] == windows).any())


@lru_cache(maxsize=4096)
def _needles(canary: str) -> tuple[np.ndarray, np.ndarray]:
    """What to look for in the readings of a text, and in the text as it is."""
    folded = canary.casefold()
    plain = [_windows(folded), _windows(folded[::-1])]
    return np.concatenate(plain), np.concatenate([_windows(core) for core in _base64_cores(canary)])


def _readings(text: str) -> Iterator[str]:
    """*text* in lower case, and with its escapes decoded."""
    folded = text.casefold()
    yield folded
    if "%" in text:
        yield unquote(text, errors="replace").casefold()
    if "\\u" in text:
        yield _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).casefold()
    for match in _HEX.finditer(folded):
        for start in (0, 1):
            digits = match[0][start:]
            yield bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("latin-1").casefold()


def _windows(text: str) -> np.ndarray:
    """Every eight bytes of *text*, as one number each."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    if len(data) < PIECE:
        return np.empty(0, np.uint64)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(data, PIECE)).view(np.uint64).ravel()
