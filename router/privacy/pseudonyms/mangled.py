"""What is left in an answer of pseudonyms that its model changed beyond repair: counted by type, never restored.

It is near a pseudonym of the request: its code with another type or in another case, a code with one character more,
less or changed, or a type with the first characters of a code. A guess would put one person's value where another's
belongs, so the app is warned instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable

_RUN: Final = re.compile("[A-Za-z0-9]+")
_LEAST: Final = 3
"""Characters of a code that a type must precede to count as its beginning."""


def mangled(answer: str, sent: Iterable[str], table: PseudonymTable) -> Mapping[str, int]:
    """How many pseudonyms of each type *answer* holds in a form that cannot be restored.

    Args:
        answer: As the model wrote it.
        sent: The texts of the request, with pseudonyms.
        table: Theirs.
    """
    remains = [_Remains(text, table) for text in _unrestored(answer, table)]
    if not any(one.typed or one.alone for one in remains):
        return {}
    names = {text[start:end] for text in sent for start, end in table.pseudonyms(text)}
    types = {code: stem for stem, _, code in (name.partition("_") for name in names) if code}
    near = {form: stem for code, stem in types.items() for form in _forms(code)}
    found: Counter[str] = Counter()
    for one in remains:
        found.update(stem for stem, code in one.typed if _begins(stem, code, names) or _kind(code, near))
        found.update(filter(None, (_kind(code, near) for code in one.alone)))
    return dict(sorted(found.items()))


class _Remains:
    """What may be left of pseudonyms in a *text*: runs of letters and digits behind a type, and others like a code."""

    def __init__(self, text: str, table: PseudonymTable) -> None:
        behind = {start: (stem, code) for stem, code, start in table.typed(text)}
        self.typed = list(behind.values())
        runs = [run for run in _RUN.finditer(text) if run.start() not in behind]
        self.alone = [run[0] for run in runs if not (run[0].isalpha() or run[0].isdigit())]


def _unrestored(answer: str, table: PseudonymTable) -> Iterator[str]:
    done = 0
    for start, end in table.pseudonyms(answer):
        yield answer[done:start]
        done = end
    yield answer[done:]


def _begins(stem: str, code: str, names: Iterable[str]) -> bool:
    return len(code) >= _LEAST and any(name.startswith(f"{stem}_{code}") for name in names)


def _forms(code: str) -> Iterator[str]:
    """*code* and what it is without one character: texts that share such a form differ in little."""
    yield code
    yield from (code[:at] + code[at + 1 :] for at in range(len(code)))


def _kind(code: str, near: Mapping[str, str]) -> str:
    """The type of a pseudonym whose code is near *code*, or is equal if *code* has small letters; empty if none is."""
    forms = _forms(code) if code.isupper() else (code.upper(),)
    return next((near[form] for form in forms if form in near), "")
