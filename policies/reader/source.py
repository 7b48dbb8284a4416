"""Errors and warnings with their positions in the text of a file, whatever its format."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.secret import masked

_WINDOW = 140


class Fault(Exception):
    """One error; *offset* counts characters from the start of the text in which it was found."""

    def __init__(self, message: str, offset: int, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyWarning:
    """Something in a policy that is valid and probably a mistake. *line* and *column* count from 1."""

    path: str
    line: int
    column: int
    message: str
    hint: str | None = None
    text: str = ""
    """The whole warning for people, with the line and a caret."""
    advice: bool = False
    """It may well be meant so: `policy check --strict` does not fail for it."""

    def __str__(self) -> str:
        return self.text


class Faults:
    """Collects the errors and warnings of one text, so that all are reported at once; *what* names it in messages."""

    def __init__(self, text: str, path: str, what: str = "the policy") -> None:
        self.what = what
        self._text = text
        self._path = path
        self._found: dict[tuple[int, str], Fault] = {}
        self._warned: dict[tuple[int, str], Fault] = {}
        self._advice: set[str] = set()

    def add(self, message: str, offset: int, hint: str | None = None) -> None:
        """Add an error at *offset*; *hint* is what to write instead."""
        self._found.setdefault((offset, message), Fault(message, offset, hint))

    def warn(self, message: str, offset: int, hint: str | None = None, *, advice: bool = False) -> None:
        """Add a warning at *offset*; *advice* may well be meant so."""
        self._warned.setdefault((offset, message), Fault(message, offset, hint))
        if advice:
            self._advice.add(message)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of *offset*, both from 1; an offset after the end stands for the end."""
        offset = max(0, min(offset, len(self._text)))
        return self._text.count("\n", 0, offset) + 1, offset - self._text.rfind("\n", 0, offset)

    def label(self, offset: int) -> str:
        """`path:line:column` of *offset*."""
        line, column = self.position(offset)
        return f"{self._path}:{line}:{column}"

    @property
    def warnings(self) -> tuple[PolicyWarning, ...]:
        """The warnings, in the order of the text."""
        return tuple(self._warning(fault) for fault in sorted(self._warned.values(), key=lambda fault: fault.offset))

    def _warning(self, fault: Fault) -> PolicyWarning:
        line, column = self.position(fault.offset)
        text = self._shown(fault, "warning: ")
        return PolicyWarning(
            path=self._path,
            line=line,
            column=column,
            message=fault.message,
            hint=fault.hint,
            text=text,
            advice=fault.message in self._advice,
        )

    @property
    def count(self) -> int:
        """The number of errors so far."""
        return len(self._found)

    def check(self) -> None:
        """Raise all errors so far as one.

        Raises:
            PolicyError: there is at least one error; `.errors` has all of them, in the order of the text.
        """
        if not self._found:
            return
        errors = [self._error(fault) for fault in sorted(self._found.values(), key=lambda fault: fault.offset)]
        if len(errors) == 1:
            raise errors[0]
        first = errors[0]
        text = "\n".join([*(str(error) for error in errors), f"{len(errors)} errors; {self.what} is rejected"])
        raise PolicyError(text, path=first.path, line=first.line, column=first.column, hint=first.hint, errors=errors)

    def _error(self, fault: Fault) -> PolicyError:
        line, column = self.position(fault.offset)
        return PolicyError(self._shown(fault), path=self._path, line=line, column=column, hint=fault.hint)

    def _shown(self, fault: Fault, kind: str = "") -> str:
        line, column = self.position(fault.offset)
        shown, caret = _window(masked(self._text.split("\n")[line - 1].rstrip("\r")), column)
        parts = [f"{self.label(fault.offset)}: {kind}{fault.message}", f"    {shown}", f"    {caret}"]
        return "\n".join([*parts, f"    hint: {fault.hint}"] if fault.hint else parts)


def _window(line: str, column: int) -> tuple[str, str]:
    """The part of *line* around *column* that fits a terminal, and a line with a caret for it."""
    start = max(0, column - 1 - _WINDOW // 2) if len(line) > _WINDOW else 0
    shown = "".join(char if char.isprintable() or char == "\t" else "?" for char in line[start : start + _WINDOW])
    before = shown[: column - start - 1]
    return shown, "".join("\t" if char == "\t" else " " * _width(char) for char in before) + "^"


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of *known*, or lists all if none is near."""
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"known here: {', '.join(choices)}" if choices else "nothing is declared here"
