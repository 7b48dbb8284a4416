"""Reads YAML strictly, with the position of every character of every scalar."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid_llm.policies.reader.source import Faults

if TYPE_CHECKING:
    import yaml


_MAX_CHARACTERS = 256 * 1024
_MAX_DEPTH = 40
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.)|\n)", re.DOTALL)
_NAMED = dict(zip("0abtnvfreN_LP", "\0\a\b\t\n\v\f\r\x1b\x85\xa0\u2028\u2029", strict=True))
"""Letter of an escape -> its character."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text of the file; *raw* is how it is written, and *quoted* the quote, or the sign of a block."""

    text: str
    offset: int
    end: int
    raw: str
    quoted: str

    @property
    def plain(self) -> bool:
        """Whether it is neither quoted nor a block."""
        return not self.quoted

    def at(self, index: int) -> int:
        """The offset in the file of character *index* of the text; of the end if *index* is after it."""
        offsets = list(self._offsets())
        seen = [number for number, char in enumerate(self.text) if not char.isspace()]
        if len(offsets) != len(seen):
            return self.offset
        if index >= len(self.text):
            return min(offsets[-1] + 1, max(self.end - 1, self.offset)) if offsets else self.offset
        before = bisect_right(seen, index) - 1
        if before < 0:
            return offsets[0] if offsets else self.offset
        offset = offsets[before] + index - seen[before]
        return min(offset, offsets[before + 1] - 1) if before + 1 < len(offsets) else offset

    def _offsets(self) -> Iterator[int]:
        """The offsets of all characters other than space: every style of YAML keeps them, in order."""
        # The text begins after the quote, or after the header line of a block.
        index = 1 if self.quoted else 0
        if self.quoted in {"|", ">"}:
            index = self.raw.find("\n") + 1 or len(self.raw)
        stop = len(self.raw) - (1 if self.quoted in {'"', "'"} else 0)
        while index < stop:
            char, length = self._unit(index)
            if not char.isspace():
                yield self.offset + index
            index += length

    def _unit(self, index: int) -> tuple[str, int]:
        if self.quoted == "'" and self.raw.startswith("''", index):
            return "'", 2
        match = _ESCAPE.match(self.raw, index) if self.quoted == '"' else None
        if match is None:
            return self.raw[index], 1
        code = match[1] or match[2] or match[3]
        char = chr(int(code, 16)) if code else _NAMED.get(match[4] or "\n", match[4] or "\n")
        return char, len(match.group())


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of values."""

    items: tuple[Value, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping."""

    key: Scalar
    value: Value


@dataclass(frozen=True, slots=True)
class Mapping:
    """Entries in the order of the file; each key occurs once."""

    entries: tuple[Entry, ...]
    offset: int

    def get(self, key: str) -> Value | None:
        """The value under *key*."""
        return next((entry.value for entry in self.entries if entry.key.text == key), None)


Value = Scalar | Sequence | Mapping


def read_yaml(text: str, faults: Faults) -> Value | None:
    """The one document of *text*; None if it cannot be read, with the reasons in *faults*."""
    import yaml  # 10 ms: only processes that read a file pay for it

    if len(text) > _MAX_CHARACTERS:
        faults.add(f"{faults.what} has more than {_MAX_CHARACTERS} characters, and is not read", 0)
        return None
    try:
        _reject_indirection(text, faults)
        if faults.count:
            return None
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            faults.add(f"{faults.what} is empty", 0, "begin with `version: 1`")
            return None
        return _value(node, text, faults)
    except yaml.YAMLError as error:
        _add_yaml_error(text, error, faults)
    except RecursionError:
        faults.add("nested too deeply", 0)
    except (ValueError, OverflowError):
        faults.add("an escape in a quoted text is not a character", 0)
    return None


def _reject_indirection(text: str, faults: Faults) -> None:
    import yaml

    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        offset = token.start_mark.index
        depth += type(token).__name__.endswith("StartToken") - type(token).__name__.endswith("EndToken")
        if depth > _MAX_DEPTH:
            faults.add("nested too deeply", offset)
            return
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            faults.add("anchors and aliases are not allowed", offset, "write the value out")
        elif isinstance(token, yaml.TagToken):
            hint = "put an expression that begins with `!` in quotes: when: '!device.charging'"
            faults.add("YAML tags are not allowed", offset, hint)
        elif isinstance(token, yaml.DirectiveToken):
            faults.add("YAML directives are not allowed", offset, "remove the line that begins with %")


def _add_yaml_error(text: str, error: yaml.YAMLError, faults: Faults) -> None:
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    offset = mark.index if mark is not None else getattr(error, "position", 0)
    message = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be parsed"
    line = text[:offset].rpartition("\n")[2] + text[offset:].partition("\n")[0]
    hint = "put the whole expression in single quotes, or on its own line after `when: >-`" if "when:" in line else None
    hint = "use spaces instead of the tab" if text[offset : offset + 1] == "\t" else hint
    faults.add(f"this is not YAML: {message}", offset, hint)


def _value(node: Any, text: str, faults: Faults) -> Value:
    start, end = node.start_mark.index, node.end_mark.index
    if node.id == "mapping":
        return Mapping(tuple(_entries(node, text, faults)), start)
    if node.id == "sequence":
        return Sequence(tuple(_value(item, text, faults) for item in node.value), start)
    return Scalar(node.value, start, end, text[start:end], node.style or "")


def _entries(node: Any, text: str, faults: Faults) -> Iterator[Entry]:
    """The entries of a mapping; of a key that occurs again only the first."""
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key = _value(key_node, text, faults)
        if not isinstance(key, Scalar):
            faults.add("a key must be a name", key.offset)
        elif key.text in seen:
            line = text.count("\n", 0, seen[key.text]) + 1
            faults.add(f"`{key.text}` occurs twice; the first is on line {line}", key.offset)
        else:
            seen[key.text] = key.offset
            yield Entry(key, _value(value_node, text, faults))
