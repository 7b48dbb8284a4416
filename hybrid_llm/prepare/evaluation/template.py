"""Prompts made of the columns of a record: `{question}` is a column, `{{` and `}}` are braces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Text

_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with columns."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Template:
        """Check *text*; ValueError if a brace is alone or encloses nothing."""
        for part in _PART.finditer(text):
            if part[0] in ("{", "}") or (part[1] is not None and not part[1].strip()):
                raise ValueError("a brace is alone: {column} stands for a column, {{ and }} for braces")
        return cls(text)

    def filled(self, record: Mapping[str, Any]) -> str:
        """The prompt of *record*; ConfigError if it lacks a column."""

        def part(found: re.Match[str]) -> str:
            name = found[1]
            return found[0][0] if name is None else column(record, name.strip())

        return _PART.sub(part, self.text)


def column(record: Mapping[str, Any], name: str) -> str:
    """The text in a column of *record*; ConfigError if there is none, which quotes no value."""
    if name not in record or record[name] is None:
        raise ConfigError(f"a record has no column `{name}`; it has: {', '.join(map(str, record))}")
    return str(record[name])


TEMPLATE: Final = Text("a prompt with columns, such as `Q: {question}`", convert=Template.parse)
"""The kind of a key that is a template."""
