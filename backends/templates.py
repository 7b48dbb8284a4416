"""Telling the control tokens that a chat template writes from those whose names people type. Texts only, no ids.

Chat templates as transformers runs them, in jinja2's sandbox. No tokens and no files in here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template


class ControlGuard:
    """Keeps the control tokens that a template writes apart from those whose names people type.

    A *marker*, a character that the request does not contain, is put between the letters of each name in a message,
    and around a message whose edge could complete a name together with the template's own text.
    """

    def __init__(self, controls: Sequence[tuple[str, bool, bool]]) -> None:
        names = sorted((name for name, _, _ in controls), key=len, reverse=True)
        self._plain = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._controls = sorted(controls, key=lambda control: len(control[0]), reverse=True)
        self._joined = "\0".join(names)
        self._longest = len(names[0]) if names else 0
        self._tails = {name[i:] for name in names for i in range(1, len(name))}
        self._heads = {name[:i] for name in names for i in range(1, len(name))}

    def touches(self, text: str) -> bool:
        """Whether *text* holds a control token's name, or could complete one at its edges."""
        return self._plain.search(text) is not None or self._at_edge(text.strip())

    def count(self, text: str) -> int:
        """Number of control tokens in a rendered prompt."""
        return sum(1 for _ in self._plain.finditer(text))

    def mark(self, text: str, marker: str) -> str:
        """Return *text* with *marker* inside every control token's name, and around it where an edge matters."""
        marked = self._plain.sub(lambda found: marker + marker.join(found[0]) + marker, text)
        core = text.strip()
        if not self._at_edge(core):
            return marked
        lead, tail = len(text) - len(text.lstrip()), len(text) - len(text.rstrip())
        end = len(marked) - tail
        return marked[:lead] + marker + marked[lead:end] + marker + marked[end:]

    def split(self, text: str, marker: str) -> Iterator[tuple[str, bool]]:
        """Yield the pieces of a rendered, marked prompt, and whether each is a control token of the template's."""
        pattern = "|".join(_pattern(*control, marker) for control in self._controls) or r"(?!)"
        position = 0
        for found in re.finditer(pattern, text):
            if found.start() > position:
                yield text[position : found.start()], False
            yield found[0].strip() or found[0], True
            position = found.end()
        if position < len(text):
            yield text[position:], False

    def _at_edge(self, core: str) -> bool:
        sizes = range(1, min(self._longest, len(core)) + 1)
        if any(core[:size] in self._tails or core[-size:] in self._heads for size in sizes):
            return True
        return 0 < len(core) < self._longest and core in self._joined


def _pattern(name: str, lstrip: bool, rstrip: bool, marker: str) -> str:  # noqa: FBT001 - as tokenizers has them
    """What matches a control token that is not marked; a name of one letter has no inside to hold a marker."""
    unmarked = f"(?<!{marker})" if len(name) == 1 else ""
    return unmarked + (r"\s*" if lstrip else "") + re.escape(name) + (r"\s*" if rstrip else "")


def compile_template(template: str) -> Template:
    """Compile a chat template in a sandbox, with the names that transformers gives to templates.

    Raises:
        jinja2.TemplateError: the template does not parse.
    """
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(template)


def _generation_tag() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class GenerationTag(Extension):
        """`{% generation %}` marks what an assistant wrote, for training; here it only shows its body."""

        tags = {"generation"}  # noqa: RUF012 - the name and shape that jinja2 asks for

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return GenerationTag


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:  # noqa: FBT001
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - templates expect the local date
