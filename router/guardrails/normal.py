"""A text as guardrails compare it: in lower case, without marks, invisible characters and look-alikes.

Beside it stand the readings of what is written to be overlooked: digits and signs for letters (`b0mb`), and letters
with something between them (`b-o-m-b`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.looks import looked
from hybrid_llm.router.guardrails.passages import UNSEEN

_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\([nrtbf\"/\\])")
_ESCAPED: Final = {"n": "\n", "r": "\n", "t": " ", "b": " ", "f": " "}
_UNSEEN: Final = re.compile(f"[{UNSEEN}]+")
_LOOKALIKES: Final = str.maketrans(
    "авекмнорстухіѕјԁԛԝɡɩαβεηικνορτυχ‘’“”‐‑‒–—", "abekmhopctyxisjdqwgiabenikvoptux''\"\"-----"
)
_LEET: Final = re.compile(r"[a-z][0134579@$!|+]|[0134579@$!|+][a-z]")
_ENDS: Final = re.compile(r"[!|+](?![a-z0-9])")
"""Signs that end a word rather than stand for a letter."""
_LETTERS: Final = str.maketrans("0134579@$!|+", "oieastgasilt")
_SPACED: Final = re.compile(r"(?<![^\W_])(?:(?:[^\W\d_][.\-_*]){2,}|(?:[^\W\d_] ){3,})[^\W\d_](?![^\W_])")
"""Letters with a sign between them, or four and more with spaces."""
_BETWEEN: Final = re.compile(r"[ .\-_*]")


def normalised(text: str) -> str:
    """*text* as it is compared; JSON's escapes are undone, so that arguments of tool calls read as they will."""
    if "\\" in text:
        text = _ESCAPE.sub(_unescaped, text)
    if text.isascii():
        return text.lower()
    return _UNSEEN.sub("", unicodedata.normalize("NFKD", text.casefold())).casefold().translate(_LOOKALIKES)


def _unescaped(match: re.Match[str]) -> str:
    code, sign = match.groups()
    return chr(int(code, 16)) if code else _ESCAPED.get(sign, sign)


def pieces(text: str, size: int, overlap: int) -> Iterator[str]:
    """*text* in pieces of *size* characters and the *overlap* before, with a look at the deadline between them."""
    for start in looked(range(0, max(1, len(text)), size), 1):
        yield text[max(0, start - overlap) : start + size]


def readings(text: str) -> Iterator[str]:
    """*text* normalised, and each further reading that differs from it."""
    plain = normalised(text)
    yield plain
    read = plain
    if _LEET.search(plain):
        read = _ENDS.sub(" ", plain).translate(_LETTERS)
        yield read
    if _SPACED.search(read):
        yield _SPACED.sub(lambda match: _BETWEEN.sub("", match.group()), read)


def coded(label: str) -> str:
    """*label* as a code: lower-case letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", normalised(label)).strip("_").removeprefix("_")[:64] or "label"
