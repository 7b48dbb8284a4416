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
    left = list(_unrestored(answer, table))
    suspects = [run for text in left for run in _RUN.finditer(text) if _is_suspect(run[0])]
    typed = [match for text in left for match in table.typed(text)]
    if not suspects and not typed:
        return {}
    names = {text[start:end] for text in sent for start, end in table.pseudonyms(text)}
    types = {code: stem for stem, _, code in (name.partition("_") for name in names) if code}
    near = {form: code for code in types for form in _forms(code)}
    found = Counter(stem for stem, code in typed if _begins(stem, code, names) and not _is_suspect(code))
    found.update(types[near[form]] for run in suspects if (form := _shared(run[0].upper(), near)) is not None)
    return dict(sorted(found.items()))


def _unrestored(answer: str, table: PseudonymTable) -> Iterator[str]:
    done = 0
    for start, end in table.pseudonyms(answer):
        yield answer[done:start]
        done = end
    yield answer[done:]


def _is_suspect(run: str) -> bool:
    """Whether *run* has letters and digits, as a code has."""
    return not (run.isalpha() or run.isdigit())


def _begins(stem: str, code: str, names: Iterable[str]) -> bool:
    return len(code) >= _LEAST and any(name.startswith(f"{stem}_{code}") for name in names)


def _forms(code: str) -> Iterator[str]:
    """*code* and what it is without one character: texts that share such a form differ in little."""
    yield code
    yield from (code[:at] + code[at + 1 :] for at in range(len(code)))


def _shared(run: str, near: Mapping[str, str]) -> str | None:
    return next((form for form in _forms(run) if form in near), None)
