"""The first pass of the preparation: rows become clean records of one format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.cleaning import Cleaning
from hybrid_llm.prepare.data.faults import Faults
from hybrid_llm.prepare.data.figures import Figures
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.reading import Reading, Row
from hybrid_llm.prepare.data.records import Columns, Record, Unusable
from hybrid_llm.prepare.data.sources import Source

_LABELS: Final = 1000
"""Different labels from which on the column is hardly one of labels."""
_PROGRESS: Final = 2000
"""Rows between two reports."""


@dataclass(slots=True, kw_only=True)
class Intake:
    """Reads sources one after the other into records of one format.

    Attributes:
        format: of the records; if None, that of the first one.
        labels: the labels that are known; if there are none, every label is.
        label_by_file: label -> the names of the files whose records have it.
        progress: called with the share of bytes that is read.
    """

    reading: Reading
    columns: Columns
    cleaning: Cleaning
    faults: Faults
    format: DataFormat | None = None
    labels: frozenset[str] = frozenset()
    label_by_file: dict[str, str] = field(default_factory=dict)
    progress: Callable[[float], None] = lambda share: None  # noqa: ARG005
    read: Figures = field(default_factory=Figures)
    cleaned: Figures = field(default_factory=Figures)
    seen_labels: set[str] = field(default_factory=set)

    def records(self, sources: list[Source]) -> Iterator[Record]:
        """The clean records of *sources*; what is dropped or broken is counted.

        Raises:
            ConfigError: a source is unusable, or a line is broken and the preparation shall stop there.
        """
        size, done = max(1, sum(source.size for source in sources)), 0
        for source in sources:
            label = self._label_of(source)
            number = 0
            for row in self.reading.rows(source):
                number += 1
                done += row.size
                self.read.count("size", "bytes", row.size)
                if number % _PROGRESS == 0:
                    self.progress(min(1.0, done / size))
                if (record := self._record(source, row, label)) is not None:
                    yield record
            if number == 0:
                self.faults.add(source.name, 0, "the file is empty")

    def _record(self, source: Source, row: Row, label: str) -> Record | None:
        self.read.entered += 1
        fault, record = row.fault, None
        if not fault:
            try:
                record = self._made(row, label)
            except Unusable as error:
                fault = str(error)
        if record is None:
            self.faults.add(source.name, row.number, fault)
            self.read.drop("broken")
            return None
        self.cleaned.entered += 1
        clean, reason = self.cleaning.clean(record)
        if not reason:
            return clean
        self.cleaned.drop(reason)
        return None

    def _made(self, row: Row, label: str) -> Record:
        if self.format is None:
            self.format = self.columns.format_of(row.values, labelled=bool(label))
        record = self.columns.record(self.format, row.values, label)
        if self.labels and not self.labels.issuperset(record.labels):
            raise Unusable("a label that is not among `labels`")
        self.seen_labels.update(record.labels)
        if len(self.seen_labels) > _LABELS:
            raise ConfigError(f"there are more than {_LABELS} labels: name the column of labels by `label`")
        return record

    def _label_of(self, source: Source) -> str:
        if not self.label_by_file:
            return ""
        name = Path(source.name.rpartition("!")[2]).name
        for label, pattern in self.label_by_file.items():
            if fnmatch(name, pattern):
                return label
        message = f"{source.name} matches no pattern of `label_by_file`: add one, or choose files by `files`"
        raise ConfigError(message, path=source.name)
