"""The second pass of the preparation: duplicates, records that overlap with the evaluation, and private values go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hybrid_llm.prepare.data.contamination import Evaluated
from hybrid_llm.prepare.data.figures import Figures
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.privacy import RecordGuard
from hybrid_llm.prepare.data.records import Record
from hybrid_llm.prepare.data.spool import Entry

CONTENT_DIGITS = 16
"""Hexadecimal digits of the key of an entry that stand for its content; the rest stands for its line."""


@dataclass(slots=True, kw_only=True)
class Sieve:
    """Takes entries in the order of their content.

    Attributes:
        exact: drop records with the same words as one that stays.
        similar: of each record by its number, whether it is similar to one that stays.
        evaluated: what no record shall overlap with.
        drop_overlaps: drop those that do, else only count them.
    """

    format: DataFormat
    exact: bool = True
    similar: Any = None
    evaluated: Evaluated | None = None
    drop_overlaps: bool = False
    guard: RecordGuard | None = None
    duplicates: Figures = field(default_factory=Figures)
    overlaps: Figures = field(default_factory=Figures)
    private: Figures = field(default_factory=Figures)

    def records(self, entries: Iterable[Entry], progress: Callable[[int], None]) -> Iterator[tuple[Entry, Record]]:
        """The records that stay, with their entries; *progress* is called with how many entries are done."""
        last: tuple[str, tuple[str, ...]] = ("", ())
        for number, entry in enumerate(entries):
            progress(number)
            record = Record.unpacked(self.format, entry.line)
            content = entry.key[:CONTENT_DIGITS]
            if self._is_duplicate(entry, content == last[0], record.labels != last[1]):
                continue
            last = (content, record.labels)
            passed = self._passed(record)
            if passed is not None:
                yield entry, passed

    def _is_duplicate(self, entry: Entry, same: bool, other_label: bool) -> bool:  # noqa: FBT001
        self.duplicates.entered += 1
        if same and self.exact:
            self.duplicates.drop("exact")
            if other_label:
                self.duplicates.count("conflicts", "label")
            return True
        if self.similar is not None and self.similar[entry.number]:
            self.duplicates.drop("near")
            return True
        return False

    def _passed(self, record: Record) -> Record | None:
        if self.evaluated is not None:
            self.overlaps.entered += 1
            if self.evaluated.overlaps([" ".join(record.texts)]):
                self.overlaps.count("overlaps", "records")
                if self.drop_overlaps:
                    self.overlaps.drop("overlap")
                    return None
        if self.guard is None:
            return record
        self.private.entered += 1
        return self.guard.applied(record, self.private)
