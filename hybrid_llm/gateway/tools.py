"""The tools of a request, in any API, as the library takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hybrid_llm.backends.schema_rules import subschemas
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.tools import CHOICES, Tool
from hybrid_llm.gateway.asked import ToolName, dumped
from hybrid_llm.router.failures import Failure

_LOOSE: Final = (
    *("propertyNames", "uniqueItems", "not", "if", "then", "else", "dependentRequired", "dependentSchemas"),
    *("unevaluatedProperties", "unevaluatedItems", "contains", "minContains", "maxContains"),
)
"""Keywords that no grammar enforces. A tool that is not `strict` need not have them enforced, and agents' tools have
them."""
INPUT: Final = "input"
"""The one parameter of a custom tool, as the model sees it."""


@dataclass(slots=True)
class Tools:
    """The tools that a model is offered, those that it is not, and how its client knows them."""

    offered: list[Tool] = field(default_factory=list)
    names: dict[str, ToolName] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def function(self, given: Json, place: str, schema: str, *, namespace: str | None = None) -> None:
        """Offer a function: a name, a description and a JSON Schema, which is under the key *schema*."""
        parameters = given.get(schema) or {"type": "object", "properties": {}}
        text = dumped(parameters)
        if not given.get("strict"):
            text = self._relaxed(text, place)
        self._offer(given, text, namespace)

    def custom(self, given: Json, *, namespace: str | None = None) -> None:
        """Offer a custom tool, whose input is a text: for the model it is the only parameter."""
        rule = given.get("format") or {}
        grammar = rule.get("grammar", rule)
        about = grammar.get("definition") if isinstance(grammar, dict) else None
        text = {"type": "string", "description": f"It follows this grammar:\n{about}"} if about else {"type": "string"}
        schema = {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}
        name = self._offer(given, dumped(schema), namespace)
        self.names[name] = ToolName(given["name"], namespace, custom=True)

    def leave(self, place: str, kind: str) -> None:
        """Offer nothing in place of a tool that its provider would run."""
        self.warnings.append(f"{place}: no backend has the tool {kind}")

    def chosen(self, choice: Any) -> str | None:
        """`tool_choice` as `generate` takes it.

        Raises:
            Failure: it asks for a tool that is not offered.
        """
        if choice is None or (not self.offered and choice in ("auto", "none")):
            return None
        if choice not in CHOICES and choice not in [tool.name for tool in self.offered]:
            raise _wrong_choice("it names no tool of this request that a backend has")
        if not self.offered:
            raise _wrong_choice("the request has no tool that a backend has")
        return str(choice)

    def allow(self, names: Iterable[str]) -> None:
        """Offer those of *names* alone.

        Raises:
            Failure: one is not offered.
        """
        allowed = set(names)
        if not allowed <= {tool.name for tool in self.offered}:
            raise _wrong_choice("it allows a tool that the request does not have")
        self.offered = [tool for tool in self.offered if tool.name in allowed]

    def _offer(self, given: Json, parameters: str, namespace: str | None) -> str:
        name = known_as(given["name"], namespace)
        if namespace is not None:
            self.names[name] = ToolName(given["name"], namespace)
        self.offered.append(Tool(name=name, description=given.get("description") or "", parameters=parameters))
        return name

    def _relaxed(self, text: str, place: str) -> str:
        """The schema *text* without the keywords that cannot be enforced."""
        if not any(f'"{keyword}"' in text for keyword in _LOOSE):
            return text
        schema = json.loads(text)  # a copy: the body may be part of the answer
        dropped = {keyword: None for _, node in subschemas(schema) for keyword in _drop(node)}
        if dropped:
            self.warnings.append(f"{place}: not enforced: {', '.join(dropped)}")
        return dumped(schema)


def _drop(node: Any) -> Sequence[str]:
    found = [keyword for keyword in _LOOSE if keyword in node] if isinstance(node, dict) else []
    for keyword in found:
        del node[keyword]
    return found


def known_as(name: str, namespace: str | None) -> str:
    """The name by which the model knows a tool."""
    return name if not namespace else f"{namespace}__{name}"


def schema_of_format(wanted: Mapping[str, Any], schema: Any) -> Json | None:
    """The JSON Schema that a format of the answer asks for; *schema* is that of the type `json_schema`."""
    if wanted["type"] == "json_schema":
        found: Json = schema
        return found
    return {"type": "object"} if wanted["type"] == "json_object" else None


def _wrong_choice(why: str) -> Failure:
    return Failure(400, "invalid_value", f"tool_choice: {why}", "tool_choice")
