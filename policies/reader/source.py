"""Places in a policy's text and the faults found there; it knows neither YAML nor expressions."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from hybrid_llm.core.errors import PolicyError

_WINDOW = 140


class Fault(Exception):
    """One thing that is wrong: *offset* counts characters from the start of the text it was found in."""

    def __init__(self, message: str, offset: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a policy and where it came from."""

    text: str
    path: str

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of *offset*, both counted from 1; an offset behind the end stands for the end."""
        offset = max(0, min(offset, len(self.text)))
        return self.text.count("\n", 0, offset) + 1, offset - self.text.rfind("\n", 0, offset)

    def line(self, number: int) -> str:
        """The text of line *number*, counted from 1, without its line break."""
        return self.text.split("\n")[number - 1].rstrip("\r")

    def label(self, offset: int) -> str:
        """`path:line:column` of *offset*."""
        line, column = self.place(offset)
        return f"{self.path}:{line}:{column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWarning:
    """Something in a policy that works and is probably not meant. *line* and *column* are counted from 1."""

    path: str
    line: int
    column: int
    message: str
    hint: str | None = None
    text: str = ""
    """The whole warning as people read it, with the line and a caret."""

    def __str__(self) -> str:
        return self.text


class Faults:
    """Collects the faults of one source, so that a reader learns all of them at once. *what* names it in the sum."""

    def __init__(self, source: Source, what: str = "the policy") -> None:
        self._source = source
        self._what = what
        self._found: dict[tuple[int, str], Fault] = {}
        self._odd: dict[tuple[int, str], Fault] = {}

    def add(self, message: str, offset: int, hint: str | None = None) -> None:
        """Note that *message* is wrong at *offset* of the source; *hint* says what to write instead."""
        self._found.setdefault((offset, message), Fault(message, offset, hint))

    def warn(self, message: str, offset: int, hint: str | None = None) -> None:
        """Note that *message* is odd at *offset* of the source, and no fault."""
        self._odd.setdefault((offset, message), Fault(message, offset, hint))

    @property
    def warnings(self) -> tuple[PolicyWarning, ...]:
        """What is odd, in the order of the text."""
        return tuple(self._warning(odd) for odd in sorted(self._odd.values(), key=lambda odd: odd.offset))

    def _warning(self, odd: Fault) -> PolicyWarning:
        line, column = self._source.place(odd.offset)
        text = self._shown(odd, "warning: ")
        return PolicyWarning(
            path=self._source.path, line=line, column=column, message=odd.message, hint=odd.hint, text=text
        )

    @property
    def what(self) -> str:
        """What the source is, in messages."""
        return self._what

    @property
    def count(self) -> int:
        """How many faults there are so far."""
        return len(self._found)

    def check(self) -> None:
        """Raise one `PolicyError` that holds every fault, in the order of the text.

        Raises:
            PolicyError: there is at least one fault.
        """
        if not self._found:
            return
        errors = [self._error(fault) for fault in sorted(self._found.values(), key=lambda fault: fault.offset)]
        if len(errors) == 1:
            raise errors[0]
        first = errors[0]
        text = "\n".join([*(str(error) for error in errors), f"{len(errors)} errors; {self._what} is refused"])
        raise PolicyError(text, path=first.path, line=first.line, column=first.column, hint=first.hint, errors=errors)

    def _error(self, fault: Fault) -> PolicyError:
        line, column = self._source.place(fault.offset)
        return PolicyError(self._shown(fault), path=self._source.path, line=line, column=column, hint=fault.hint)

    def _shown(self, fault: Fault, kind: str = "") -> str:
        line, column = self._source.place(fault.offset)
        shown, caret = _window(self._source.line(line), column)
        parts = [f"{self._source.path}:{line}:{column}: {kind}{fault.message}", f"    {shown}", f"    {caret}"]
        return "\n".join([*parts, f"    hint: {fault.hint}"] if fault.hint else parts)


def _window(line: str, column: int) -> tuple[str, str]:
    """The part of *line* around *column* that fits a terminal, and the line with the caret under it."""
    start = max(0, column - 1 - _WINDOW // 2) if len(line) > _WINDOW else 0
    shown = "".join(char if char.isprintable() or char == "\t" else "?" for char in line[start : start + _WINDOW])
    return shown, _caret(shown, column - start)


def _caret(line: str, column: int) -> str:
    before = line[: column - 1]
    return "".join("\t" if char == "\t" else " " * _width(char) for char in before) + "^"


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of *known*, or lists them where none is near."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(choices)}" if choices else "nothing is declared here"
