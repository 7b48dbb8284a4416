"""What becomes of each field of a request: one table for each API, by which requests are checked and pages are written.

The gateway checks requests by these tables, `/openapi.json` publishes them, and docs/compatibility.md shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from hybrid_llm.gateway.shapes import ANYTHING, Check, Schema, check_of, or_null, same
from hybrid_llm.router.failures import Failure


class Use(StrEnum):
    """What becomes of a field."""

    SUPPORTED = "supported"
    """It does what the API says."""
    IGNORED = "ignored"
    """It is a hint: an answer need not show anything of it."""
    REFUSED = "refused"
    """It asks for what is not done: only values that ask for nothing are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One field of a request."""

    use: Use
    about: str = ""
    """What there is to know of it, for the page."""
    schema: Schema = field(default_factory=dict)
    neutral: tuple[Any, ...] = ()
    """Of a field that is refused: the values that ask for nothing."""
    required: bool = False

    @property
    def published(self) -> Schema:
        """Its JSON Schema: null is as good as absent, unless the API requires the field."""
        if self.use is Use.REFUSED:
            schema: Schema = {"enum": [*self.neutral, None]}
        else:
            schema = self.schema if self.required else or_null(self.schema)
        return schema | {"description": f"{self.use}. {self.about}".strip()}


def supported(schema: Schema, about: str = "", *, required: bool = False) -> Parameter:
    """A field that is followed."""
    return Parameter(use=Use.SUPPORTED, schema=schema, about=about, required=required)


def ignored(about: str = "", schema: Schema = ANYTHING) -> Parameter:
    """A field that is a hint."""
    return Parameter(use=Use.IGNORED, schema=schema, about=about)


def refused(*neutral: Any, about: str = "") -> Parameter:
    """A field that is taken with the values *neutral* alone, which ask for nothing."""
    return Parameter(use=Use.REFUSED, neutral=neutral, about=about)


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """The kinds of objects that a field holds, which a property names: parts, blocks, items, tools."""

    place: str
    """Such as `messages[].content[].type`."""
    supported: Mapping[str, str]
    """Kind -> what there is to know of it."""
    ignored: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    """Those that the API has besides. Any other is refused too."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The fields of the requests of one API."""

    path: str
    title: str
    parameters: Mapping[str, Parameter]
    kinds: tuple[Kinds, ...] = ()

    @cached_property
    def _checks(self) -> Mapping[str, Check]:
        return {name: _check(name, one) for name, one in self.parameters.items()}

    @cached_property
    def _required(self) -> tuple[str, ...]:
        return tuple(name for name, one in self.parameters.items() if one.required)

    def check(self, body: Mapping[str, Any], *, optional: str = "") -> None:
        """Check the shape of *body*; the field *optional* may be absent.

        Raises:
            Failure: a field is unknown, as at the official servers, has another shape, or asks for what is not done.
        """
        for name in self._required:
            if body.get(name) is None and name != optional:
                raise Failure(400, "missing_required_parameter", f"{name}: it is missing", name)
        checks = self._checks
        for name, value in body.items():
            if name not in checks:
                shown = name[:64]
                text = f"Unrecognized request argument supplied: {shown!a}"
                raise Failure(400, "unknown_parameter", text, shown)
            if value is not None:
                checks[name](value, name)

    def schema(self) -> Schema:
        """The JSON Schema of a request."""
        return {
            "type": "object",
            "properties": {name: one.published for name, one in self.parameters.items()},
            "required": list(self._required),
            "additionalProperties": False,
        }


def _check(name: str, parameter: Parameter) -> Check:
    if parameter.use is not Use.REFUSED:
        return check_of(parameter.schema)
    neutral = parameter.neutral
    why = f"only {neutral[0]!r} is supported" if neutral else "it is not supported"

    def check(value: Any, place: str) -> None:
        if not any(same(value, one) for one in neutral):
            raise Failure(400, "unsupported_parameter", f"{place}: {why}", name)

    return check


def markdown(table: Table) -> str:
    """*table* in Markdown: each field, then each kind of object, with what becomes of it."""
    rows = [(f"`{name}`", str(one.use), _shown(one)) for name, one in table.parameters.items()]
    for kinds in table.kinds:
        for use, listed in ((Use.SUPPORTED, kinds.supported), (Use.IGNORED, kinds.ignored)):
            rows += [(f"`{kinds.place}: {kind}`", str(use), about) for kind, about in listed.items()]
        rows += [(f"`{kinds.place}: {kind}`", str(Use.REFUSED), "") for kind in kinds.refused]
    return "| field | | |\n|---|---|---|\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _shown(parameter: Parameter) -> str:
    taken = f"only `{json.dumps(parameter.neutral[0])}` is taken" if parameter.neutral else ""
    return "; ".join(part for part in (taken, parameter.about) if part)
