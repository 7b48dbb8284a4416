"""The texts of one request under the detectors: what they find, and which of them failed."""

from __future__ import annotations

import logging
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from operator import index, itemgetter
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.looks import look, looked
from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.core.request import Request
from hybrid_llm.policies import TagRule
from hybrid_llm.router.privacy.detectors import Prepared, find_with, prepare
from hybrid_llm.router.privacy.pseudonyms.kinds import is_naming
from hybrid_llm.router.privacy.pseudonyms.notation import capitals
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.structured import Structured

_log = logging.getLogger("hybrid_llm.privacy")
Findings = list[tuple[Finding, ...]]
"""The findings in each text of `Request.visible_text`, in its order."""
_ENDS: Final = frozenset({"'s", "\u2019s"})
"""What may follow a pseudonym within a finding: the genitive."""
_PLACEHOLDER: Final = "x"
_SHORT: Final = 1024
"""Characters of a text that a detector of ours reads in less than a millisecond."""
_BREAK: Final = re.compile(r"\\[nrt]")
"""A line break or a tab in the text of JSON."""


class Scan:
    """The texts of one request under the detectors, each of which runs once, when its result is first needed.

    Every call may raise `DeadlineExceeded`: the scan looks at the deadline of the request from time to time.
    """

    def __init__(
        self, detectors: Mapping[str, Detector], request: Request, *, table: PseudonymTable | None = None
    ) -> None:
        """Scan *request*; the built-in detectors do not read the pseudonyms of *table*, whose types are words."""
        self._detectors = detectors
        self._table = table
        self.check = request.check_deadline
        self._request = request
        self._found: dict[str, Findings] = {}
        self.texts = tuple(request.visible_text())
        self.failed: list[str] = []
        """The detectors that failed; they find nothing."""

    @cached_property
    def _prepared(self) -> list[Prepared]:
        """The texts with their encodings undone, once for everything that reads them."""
        table = self._table
        return prepare(self.texts if table is None else [_masked(text, table) for text in self.texts])

    @cached_property
    def structures(self) -> list[Structured]:
        """The texts as they are edited."""
        return [Structured(text, form) for text, form in zip(self.texts, self._request.text_forms(), strict=True)]

    def open_forms(self) -> list[Prepared]:
        """The texts in which values are replaced."""
        forms = [text.open_form for text in self.structures]
        return [each if each.text == form else Prepared(form) for each, form in zip(self._prepared, forms, strict=True)]

    def sees(self, rule: TagRule) -> bool:
        """Whether one of the tag's detectors finds something."""
        for name in rule.detect:  # noqa: SIM110  # it runs for every tag of every request
            if any(self._findings(name)):
                return True
        return False

    def finds_beside(self, name: str) -> bool:
        """Whether detector *name* finds anything but the pseudonyms of the table."""
        table = self._table
        assert table is not None
        for text, found in zip(self.texts, self._findings(name), strict=True):
            ours = list(table.pseudonyms(text)) if found else []
            if not all(_is_ours(finding, text, ours) for finding in found):
                return True
        return False

    def merged(self, names: Sequence[str]) -> Findings:
        """The findings of all of *names*, text by text."""
        if not names:
            return [()] * len(self.texts)
        columns = [self._findings(name) for name in names]
        return [_ranked([finding for part in parts for finding in part]) for parts in zip(*columns, strict=True)]

    def _findings(self, name: str) -> Findings:
        if name not in self._found:
            self._found[name] = self._run(name)
        return self._found[name]

    def _run(self, name: str) -> Findings:
        detector = self._detectors.get(name)
        if detector is None:
            raise ConfigError(f"the policy names the detector {name!r}, which is not registered")
        found: Findings = []
        try:
            for text, each in zip(self.texts, self._prepared, strict=True):
                if found or len(text) > _SHORT:
                    look()
                some = find_with(detector, each, text)
                if some:
                    some = _private(name, self.structures[len(found)], some)
                found.append(some)
            return found
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # also a panic in Rust; whatever it is, the request stays here
            failure = type(error).__name__
        self.check()  # which may be what failed
        _log.warning("detector %s failed with %s: the request stays on the device", name, failure)
        self.failed.append(name)
        return [()] * len(self.texts)


def _private(name: str, text: Structured, found: Sequence[Finding]) -> tuple[Finding, ...]:
    """What of the findings of detector *name* in *text* counts, each checked."""
    kept: list[Finding] = []
    for finding in looked(found):
        whole = _checked(name, text.text, finding)
        kept += text.named(whole) if is_naming(finding.kind) else (whole,)
    return text.private(kept)


def _ranked(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """*found* with names last: where a number is found as one too, the other kind counts."""
    return tuple(sorted(found, key=lambda each: is_naming(each.kind)))


def _masked(text: str, table: PseudonymTable) -> str:
    """*text* with a placeholder of the same length for each pseudonym of *table*."""
    done, parts = 0, []
    for start, end in table.pseudonyms(text):
        parts += [text[done:start], _PLACEHOLDER * (end - start)]
        done = end
    return "".join([*parts, text[done:]])


def _checked(name: str, text: str, finding: Finding) -> Finding:
    """A *finding* of the detector *name*, whose name takes the place of a kind that would show some of the value.

    Raises:
        ValueError: it is not inside the *text*, or its kind is not a name.
    """
    kind, start, end = finding.kind, index(finding.start), index(finding.end)
    if not 0 <= start < end <= len(text):
        raise ValueError("a finding is not inside its text")
    if kind != name:
        if not kind.isidentifier():
            raise ValueError("a kind is not a name")
        if capitals(kind) in capitals(text[start:end]):
            kind = name
    return Finding(kind=kind, start=start, end=end)


def _is_ours(finding: Finding, text: str, ours: Sequence[tuple[int, int]]) -> bool:
    """Whether *finding* consists of pseudonyms, at the places *ours*, and of nothing beside them that could be read."""
    first = bisect_right(ours, finding.start, key=itemgetter(1))
    last = bisect_left(ours, finding.end, key=itemgetter(0))
    begins = [finding.start, *(end for _, end in ours[first:last])]
    ends = [*(start for start, _ in ours[first:last]), finding.end]
    pieces = [_BREAK.sub(" ", text[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    silent = (
        not any(map(str.isalnum, piece)) for piece in (pieces[0], *(p for p in pieces[1:] if p.strip() not in _ENDS))
    )
    return first < last and all(silent)
