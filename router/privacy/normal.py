"""The normal form of a text: lower-case letters and digits only, in which every re-spelling of a value reads the same.

`511-073-750`, `511 073 750` and a full-width `５１１…` are one string in it, and so are `Jane.Doe@Example.org` and
`jane\\_doe@example.org`. It is made of a `View`, whose encodings are undone already.
Characters map one to one, so that every match leads back to the characters it came from.
"""

from __future__ import annotations

import unicodedata
from functools import cached_property
from typing import Any, Final

from hybrid_llm.router.privacy.detectors.text import View, decoded, fold

_NOTHING: Final = "\0"
_ENCODED: Final = frozenset("\\%&")
"""How codes begin; a text of ASCII without them has none."""


class _Table(dict[int, str]):
    """Code point -> its normal form, filled as characters occur."""

    def __missing__(self, code: int) -> str:
        value = self[code] = _normal(chr(code))
        return value


def _normal(char: str) -> str:
    """A lower-case letter or digit, `@`, or `_NOTHING` for a separator: always one character."""
    ascii_form = chr(fold(char)[0])
    if ascii_form == "@" or (ascii_form.isascii() and ascii_form.isalnum() and not _is_stand_in(char, ascii_form)):
        return ascii_form.lower()
    if not char.isalnum():
        return _NOTHING
    return char.lower() if len(char.lower()) == 1 else char


def _is_stand_in(char: str, ascii_form: str) -> bool:
    """Whether the letter is folded to `x` only because it has no ASCII form."""
    return ascii_form == "x" and char not in "\u0445\u03c7" and "x" not in unicodedata.normalize("NFKD", char).lower()


_TABLE: Final = _Table()


class Normal:
    """A text in normal form, and where each of its characters stands in its view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._spaced = view.text.translate(_TABLE)
        self.text = self._spaced.replace(_NOTHING, "")

    @cached_property
    def places(self) -> Any:
        """A NumPy array: the position in the view of each character."""
        import numpy as np

        if self._spaced.isascii():
            return np.flatnonzero(np.frombuffer(self._spaced.encode("ascii"), np.uint8))
        return np.flatnonzero(np.frombuffer(self._spaced.encode("utf-32-le", "surrogatepass"), np.uint32))


def normal_form(value: str) -> str:
    """*value* with its encodings undone, in normal form."""
    shown = value if value.isascii() and _ENCODED.isdisjoint(value) else decoded(value).text
    return shown.translate(_TABLE).replace(_NOTHING, "")
