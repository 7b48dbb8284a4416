"""Faults in what a model for names may change in JSON."""

from __future__ import annotations

from tests.mutants.changes import always, never, swap
from tests.mutants.mutant import Mutant

_SCAN = "hybrid_llm.router.privacy.scan"
_STRUCTURED = "hybrid_llm.router.privacy.structured"
_PSEUDONYMS = "hybrid_llm.router.privacy.pseudonyms"

MUTANTS = (
    Mutant("a number may be a name", f"{_SCAN}:_private", swap("is_naming(finding.kind)", "False")),
    Mutant("a telephone number may be a name", f"{_SCAN}:_private", swap("is_naming(finding.kind)", "True")),
    Mutant("a literal may be a name", f"{_STRUCTURED}:Structured.named", swap("_LITERALS", "()")),
    Mutant(
        "a known place is replaced in numbers of JSON", f"{_STRUCTURED}:Structured.kept", always("not is_naming(kind)")
    ),
    Mutant(
        "a known place is replaced within numbers",
        f"{_STRUCTURED}:Structured.kept",
        always("not _is_in_number(self.open_form, start, end)"),
    ),
    Mutant(
        "a name may cut an escape",
        f"{_STRUCTURED}:_within",
        swap("bisect_right(origin, start) - 1", "bisect_right(origin, start)"),
    ),
    Mutant(
        "a name stays one although it is found as a number",
        f"{_PSEUDONYMS}.values:KnownValues._has",
        swap("is_naming(kind) or not is_naming(known[value])", "True"),
    ),
    Mutant(
        "in one request the first kind of a value counts",
        f"{_PSEUDONYMS}.table:PseudonymTable._learn",
        never("is_naming(known)"),
    ),
)
