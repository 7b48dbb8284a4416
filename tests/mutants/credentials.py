"""Planted faults of the detection of secrets and of encodings."""

from __future__ import annotations

from tests.mutants.changes import always, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_D = "hybrid_llm.router.privacy.detectors"

MUTANTS = (
    Mutant("what nobody sees is not reported", f"{_D}.encodings:hidden", always("_INVISIBLE.search(text) is None")),
    Mutant("base64 is found at the start of a run only", f"{_D}.encodings:_base64", never("len(raw) >= _JOINED")),
    Mutant("short base64 is skipped", f"{_D}.encodings:_SHORTEST", swap("8", "16")),
    Mutant("base64 behind text is read from one place", f"{_D}.encodings:_anywhere", swap("range(4)", "range(1)")),
    Mutant("marks of UTF-16 are ignored", f"{_D}.encodings:_charset", never("data.startswith(mark)")),
    Mutant("placeholders are secrets", f"{_D}.credentials.plausible:likeness", never("_PLACEHOLDER.fullmatch(value)")),
    Mutant("program text is a secret", f"{_D}.credentials.plausible:likeness", never("bare and is_code(value)")),
    Mutant(
        "names of formats are secrets",
        f"{_D}.credentials.plausible:_of_one",
        never("_TECHNICAL.fullmatch(value.rstrip('_'))"),
    ),
    Mutant(
        "a hash is a password",
        f"{_D}.credentials.labels:_loss",
        never("any((_META.fullmatch(part) for part in parts))"),
    ),
    Mutant(
        "the type of a field is its value",
        f"{_D}.credentials.labels:label_at",
        drop_operand("_TYPE.search(before)"),
    ),
    Mutant("elements hold no password", f"{_D}.credentials.beside:_tagged", always("not _OPENED.search(label.before)")),
    Mutant("no password is told in prose", f"{_D}.credentials.beside:_told", always("match is None")),
    Mutant("nothing follows a word directly", f"{_D}.credentials.beside:_next", always("match is None")),
    Mutant(
        "no value stands before its word",
        f"{_D}.credentials.others:ahead",
        swap("match is None or not _may_link(match, label.behind)", "True"),
    ),
    Mutant("no value stands in the line below", f"{_D}.credentials.beside:_below", always("value is None or __ or __")),
    Mutant("a bracket in a string closes an array", f"{_D}.layout.pairs:_brackets", always("data[start] != _QUOTE")),
    Mutant("a bracket in a password ends it", f"{_D}.credentials.readings:trimmed", always("__ and __")),
)
