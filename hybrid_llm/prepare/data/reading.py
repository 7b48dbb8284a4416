"""Reads rows from files of data, one after the other: text, JSON lines, CSV, Parquet, and folders of `datasets`.

A line that cannot be read is a row too, with what is wrong with it; the step decides whether to stop.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import parse_json
from hybrid_llm.prepare.data.arrays import NotJson, array_items
from hybrid_llm.prepare.data.sources import Source, check_expansion
from hybrid_llm.prepare.libraries import needs

_BATCH: Final = 16
"""Rows of a row group that are decoded at a time: few, since each may be as long as all that its file stores."""
_DECODED: Final = 1 << 16
"""Bytes that are decoded at a time."""
_BLANK: Final = re.compile(rb"[ \t\r\n]*\n")
"""Lines without text, from the start of a line on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line, document or row of a source; blank lines that follow each other can be one row.

    Attributes:
        number: counted from 1; of lines, that of its last line.
        values: column -> value. Of text, the column `text`.
        fault: why it cannot be read, a few words without its content; empty where it can.
        size: bytes that it takes in its source, as far as known.
    """

    number: int
    values: Mapping[str, Any]
    fault: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How files are read: *unit* of text (`lines`, `paragraphs` or `documents`), and bounds."""

    kind: str = ""
    unit: str = "lines"
    encoding: str = "utf-8"
    max_line: int = 16 << 20

    def rows(self, source: Source) -> Iterator[Row]:
        """The rows of *source*.

        Raises:
            ConfigError: it is no file of its kind, or a library is missing.
        """
        kind = self.kind or KINDS.get(source.suffix, "text")
        return _READERS[kind](self, source)


@dataclass(slots=True)
class _Document:
    """The lines of one document that are read so far."""

    lines: list[str] = field(default_factory=list)
    fault: str = ""
    size: int = 0
    length: int = 0

    def add(self, row: Row, most: int) -> None:
        text = row.values.get("text", "")
        self.size += row.size
        self.length += len(text) + 1
        self.fault = self.fault or row.fault
        if self.length > most:
            self.fault = f"a document of more than {most >> 20} MiB"
        if self.fault:
            self.lines.clear()
        else:
            self.lines.append(text)

    def row(self, number: int) -> Row:
        return Row(number=number, values={"text": "\n".join(self.lines)}, fault=self.fault, size=self.size)


def _text(reading: Reading, source: Source) -> Iterator[Row]:
    if reading.unit == "lines":
        yield from (row for row in _lines(reading, source) if row.fault or row.values["text"].strip())
        return
    document, number = _Document(), 0
    for row in _lines(reading, source):
        number = row.number
        if reading.unit == "paragraphs" and not row.fault and not row.values["text"].strip():
            if document.size:
                yield document.row(number)
            document = _Document()
        else:
            document.add(row, reading.max_line)
    if document.size:
        yield document.row(number)


def _lines(reading: Reading, source: Source) -> Iterator[Row]:
    """The lines of *source*, without their ends; a line that is too long or wrongly encoded is a fault."""
    with source.open() as file:
        start = file.read(4)
    encoding = _encoding(reading.encoding, start)
    with source.open() as file:
        if encoding == "utf-8-sig" or "\n".encode(encoding) == b"\n":
            yield from _byte_lines(file, encoding, reading.max_line)
        else:
            yield from _wide_lines(file, encoding, reading.max_line, source.name)


def _encoding(named: str, start: bytes) -> str:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and codecs.lookup(named).name == "utf-8":
        return "utf-16"
    return "utf-8-sig" if codecs.lookup(named).name == "utf-8" else named


def _byte_lines(file: IO[bytes], encoding: str, most: int) -> Iterator[Row]:
    number, first = 0, encoding
    rest = "utf-8" if encoding == "utf-8-sig" else encoding
    while line := file.readline(most + 1):
        number += 1
        size = len(line)
        if size > most:
            size += _skip_line(file, most) if not line.endswith(b"\n") else 0
            yield Row(number=number, values={}, fault=f"a line of more than {most >> 20} MiB", size=size)
            continue
        try:
            text = line.decode(first if number == 1 else rest)
        except UnicodeDecodeError:
            yield Row(number=number, values={}, fault=f"not {rest}: set `encoding`, e.g. latin-1", size=size)
            continue
        yield Row(number=number, values={"text": text.rstrip("\r\n")}, size=size)
        if not text or text.isspace():
            for blank in _blank_lines(file):
                number += blank.count(b"\n")
                yield Row(number=number, values={"text": blank[:-1].decode()}, size=len(blank))


def _blank_lines(file: IO[bytes]) -> Iterator[bytes]:
    """The blank lines that come next in *file*, as many at a time as it has at hand: a small file can hold billions."""
    peek: Callable[[int], bytes] = file.peek  # type: ignore[attr-defined]  # of files, gzip files and members of archives
    while found := _BLANK.match(peek(_DECODED)):
        yield file.read(found.end())


def _skip_line(file: IO[bytes], most: int) -> int:
    skipped = 0
    while part := file.readline(most):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _wide_lines(file: IO[bytes], encoding: str, most: int, name: str) -> Iterator[Row]:
    """Lines in an encoding whose line ends are more than one byte: a fault in it cannot be stepped over."""
    decoder = codecs.getincrementaldecoder(encoding)()
    number, pending = 0, ""
    while True:
        data = file.read(_DECODED)
        try:
            pending += decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            message = f"{name} is not {encoding}, from line {number + 1} on: set `encoding`"
            raise ConfigError(message, path=name) from error
        *lines, pending = pending.split("\n")
        if not data and pending:
            lines.append(pending)
        if len(pending) > most:
            raise ConfigError(f"{name}:{number + len(lines) + 1}: a line of more than {most >> 20} MiB", path=name)
        if lines and not "".join(lines).strip():  # a run of blank lines: one row
            lines = ["\n".join(lines)]
        for line in lines:
            number += 1 + line.count("\n")
            yield Row(number=number, values={"text": line.rstrip("\r")}, size=len(line.encode(encoding)))
        if not data:
            return


def _json_lines(reading: Reading, source: Source) -> Iterator[Row]:
    for row in _lines(reading, source):
        if row.fault or not row.values["text"].strip():
            if row.fault:
                yield row
            continue
        yield Row(number=row.number, size=row.size, **_json_object(row.values["text"]))


def _json(reading: Reading, source: Source) -> Iterator[Row]:
    """One array of objects, or an object on each line."""
    with source.open() as file:
        start = file.read(_DECODED)
    encoding = _encoding(reading.encoding, start)
    if not start.decode(encoding, "ignore").lstrip().startswith("["):
        yield from _json_lines(reading, source)
        return
    number = 0
    with source.open() as file:
        try:
            for value, size in array_items(file, encoding, reading.max_line):
                number += 1
                fault = "" if isinstance(value, dict) else "not a JSON object"
                yield Row(number=number, values={} if fault else value, fault=fault, size=size)
        except NotJson as error:
            yield Row(number=number + 1, values={}, fault=str(error))


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        return {"values": {}, "fault": "not JSON"}
    if not isinstance(value, dict):
        return {"values": {}, "fault": "not a JSON object"}
    return {"values": value}


def _csv(reading: Reading, source: Source) -> Iterator[Row]:
    return _table(reading, source, ",")


def _tsv(reading: Reading, source: Source) -> Iterator[Row]:
    return _table(reading, source, "\t")


def _table(reading: Reading, source: Source, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(reading.max_line)
    lines = _TableLines()
    rows = csv.reader(lines.of(_lines(reading, source)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        fault, cells = "", []
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error:
            fault = "not CSV: a quote is not closed, or a field is too long"
        size, faulty = lines.taken(outside=not cells and not fault)
        fault = fault or faulty
        if header is None:
            header = _header(cells, fault, source)
        elif cells or fault:
            if not fault and len(cells) != len(header):
                fault = f"{len(cells)} fields, and the header has {len(header)}"
            values = {} if fault else dict(zip(header, cells, strict=True))
            yield Row(number=lines.number, values=values, fault=fault, size=size)


@dataclass(slots=True)
class _TableLines:
    """The lines that the next row is made of. Blank ones outside of a row are not handed on, of many the first alone.

    Attributes:
        number: of the last line that was handed on, counted from 1.
        outside: whether no row has begun, since the last line was a blank row.
    """

    number: int = 0
    size: int = 0
    fault: str = ""
    outside: bool = False

    def of(self, rows: Iterator[Row]) -> Iterator[str]:
        """Each line of *rows*, with its end."""
        for row in rows:
            self.size += row.size
            self.fault = self.fault or row.fault
            text = row.values.get("text", "")
            if self.outside and not text.strip("\r\n"):
                continue
            lines = text.split("\n")
            start = row.number - len(lines) + 1
            for at, line in enumerate(lines):
                if self.outside and line in ("", "\r"):
                    continue
                self.number, self.outside = start + at, False
                yield line + "\n"

    def taken(self, *, outside: bool) -> tuple[int, str]:
        """Bytes and fault of the row that was read; *outside* if it had no cells."""
        size, fault = self.size, self.fault
        self.size, self.fault, self.outside = 0, "", outside
        return size, fault


def _header(cells: list[str], fault: str, source: Source) -> list[str]:
    if fault or len(set(cells)) != len(cells) or not all(cells):
        why = fault or "its first line must name each column, once"
        raise ConfigError(f"{source.name}: {why}", path=source.name)
    return cells


def _parquet(reading: Reading, source: Source) -> Iterator[Row]:
    with needs("prepare"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    if "!" in source.name:
        message = f"{source.name}: Parquet in an archive is not read: unpack it, and name the folder"
        raise ConfigError(message, path=source.name)
    number, held = 0, 0
    try:
        with pq.ParquetFile(source.path) as file:
            _check_groups(file.metadata, source.name)
            size = source.size // max(1, file.metadata.num_rows)
            for batch in file.iter_batches(batch_size=_BATCH):
                held += batch.nbytes
                check_expansion(source.name, held, source.size)
                for values, fault in _batch_values(batch, reading.max_line):
                    number += 1
                    yield Row(number=number, values=values, fault=fault, size=size)
    except (pa.ArrowException, OSError) as error:
        what = f"{source.name} is not readable as Parquet, after {number} rows ({type(error).__name__})"
        raise ConfigError(f"{what}: fetch or write it again", path=source.name) from error


def _check_groups(metadata: Any, name: str) -> None:
    """Refuse a file whose few bytes stand for far more, by what its metadata state of each group of rows."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(at) for at in range(group.num_columns)]
        packed = sum(chunk.total_compressed_size for chunk in chunks)
        for held in (sum(chunk.total_uncompressed_size for chunk in chunks), sum(chunk.num_values for chunk in chunks)):
            check_expansion(name, held, packed)


def _batch_values(batch: Any, most: int) -> Iterator[tuple[dict[str, Any], str]]:
    """The values of each row, or what is wrong with it; a row that is too long never becomes objects of Python."""
    if batch.nbytes <= most:
        for values in batch.to_pylist():
            yield values, ""
        return
    for at in range(batch.num_rows):
        row = batch.slice(at, 1)
        if row.nbytes > most:
            yield {}, f"a row of more than {most >> 20} MiB"
        else:
            yield row.to_pylist()[0], ""


def _datasets(_reading: Reading, source: Source) -> Iterator[Row]:
    with needs("prepare"):
        import datasets
    try:
        loaded = datasets.load_from_disk(str(source.path))
    except Exception as error:  # whatever the library raises for a damaged folder
        message = f"{source.name} cannot be read by datasets ({type(error).__name__}): save it again"
        raise ConfigError(message, path=source.name) from error
    number = 0
    for part in loaded.values() if hasattr(loaded, "values") else [loaded]:
        names = {name: kind.int2str for name, kind in part.features.items() if hasattr(kind, "int2str")}
        for values in part:
            number += 1
            named = {name: to_name(values[name]) for name, to_name in names.items() if values[name] is not None}
            yield Row(number=number, values={**values, **named})


_READERS: Final[Mapping[str, Callable[[Reading, Source], Iterator[Row]]]] = {
    "text": _text,
    "jsonl": _json_lines,
    "json": _json,
    "csv": _csv,
    "tsv": _tsv,
    "parquet": _parquet,
    "datasets": _datasets,
}
KINDS: Final[Mapping[str, str]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".datasets": "datasets",
}
"""Suffix -> kind of file; every other file is text."""
