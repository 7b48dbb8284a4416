"""The grammar of an answer with tools: reasoning, text, calls whose arguments follow their schemas, or a document.

Written in llguidance's Lark dialect. Names and schemas of an app go in as JSON, which cannot end a literal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hybrid_llm.backends.calls.formats import THINK, THOUGHT, CallFormat, ModelFormat, answer_pieces
from hybrid_llm.backends.schema import WHITESPACE, UnusableSchema, check_schema
from hybrid_llm.core.request import Request
from hybrid_llm.core.tools import TOOL_NAME, Tool

WHITESPACE_RULE: Final = '"x-guidance": ' + json.dumps({"whitespace_pattern": WHITESPACE})
"""What every schema in a grammar ends with."""
_GAP: Final = r"GAP: /[ \n]{1,4}/"
_SPECIAL: Final = re.compile(r"([\\^$.|?*+()\[\]{}/])")


class Grammars:
    """Writes the grammars of one model; *controls* has its control tokens, which no text can hold, with their ids."""

    def __init__(self, model: ModelFormat, controls: Mapping[str, int]) -> None:
        self._model = model
        names = sorted(controls, key=len, reverse=True)
        self._controls = controls
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None

    def needs(self, request: Request) -> bool:
        """Whether the answer follows a grammar that `check_schema` alone does not give."""
        return bool(request.tools) or (request.output_schema is not None and self._model.reasons)

    def write(self, request: Request) -> str:
        """The grammar of the answer to *request*.

        Raises:
            UnusableSchema: the schema of a tool or of the answer cannot be enforced; no value is quoted.
        """
        return "\n".join(["%llguidance {}", *self._rules(request)])

    def prefix(self, request: Request) -> tuple[str | int, ...]:
        """What the answer has begun with: texts and ids of control tokens."""
        pieces: list[str | int] = []
        for text, own in answer_pieces(self._model, request):
            pieces += self._pieces(text) if own else [text]
        return tuple([piece for piece in pieces if piece != ""])

    def _rules(self, request: Request) -> Iterator[str]:
        calls, offered = self._model.of(request), offered_tools(request)
        yield self._start()
        yield _GAP
        yield from self._until("thinking", THOUGHT, (THOUGHT,))
        marks = (calls.begin, THINK, THOUGHT)
        yield f"PLAIN: {_without(marks if self._model.reasons else marks[:1])}"
        yield from self._until("preamble", calls.begin, marks)
        if request.output_schema is not None:
            yield f"document: {_json_rule(request.output_schema)}"
        yield from self._call_rules(calls, request, offered)

    def _start(self) -> str:
        if self._model.begins_reasoning:
            return "start: thinking GAP? body"
        return f"start: ({self._literal(THINK)} thinking GAP?)? body" if self._model.reasons else "start: body"

    def _call_rules(self, calls: CallFormat, request: Request, offered: Mapping[int, Tool]) -> Iterator[str]:
        text = "PLAIN?" if request.output_schema is None else "document"
        if not offered:
            yield f"body: {text}"
            return
        called = f"{self._literal(calls.begin)} calls"
        if request.tool_choice != "auto":
            yield f"body: {called}"
        else:
            yield f"body: preamble calls | {text}" if request.output_schema is None else f"body: {called} | {text}"
        several = request.parallel_tool_calls and calls.between != ""
        further = f"({self._literal(calls.between)} call)*" if several else ""
        yield f"calls: {self._literal(calls.open)} call {further} {self._literal(calls.close)}"
        yield "call: " + " | ".join(f"call_{index}" for index in offered)
        for index, tool in offered.items():
            head = self._literal(f"{calls.head}{tool.name}{calls.middle}")
            yield f"call_{index}: {head} {_arguments_rule(index, tool)} {self._literal(calls.tail)}"

    def _until(self, name: str, end: str, marks: tuple[str, ...]) -> Iterator[str]:
        """The rule *name*: any text up to *end*, and *end*."""
        pieces = self._pieces(end)
        if len(pieces) == 1 and isinstance(pieces[0], str):
            yield f"{name}[suffix={_quoted(end)}]: /(?s:.*)/"
        else:
            yield f"BEFORE_{name.upper()}: {_without(marks)}"
            yield f"{name}: BEFORE_{name.upper()}? {self._literal(end)}"

    def _literal(self, text: str) -> str:
        """*text* of the format, control tokens as tokens."""
        return " ".join(f"<[{piece}]>" if isinstance(piece, int) else _quoted(piece) for piece in self._pieces(text))

    def _pieces(self, text: str) -> list[str | int]:
        parts = self._split.split(text) if self._split is not None else [text]
        return [self._controls.get(part, part) for part in parts if part]


def document_grammar(schema: str) -> str:
    """The grammar of a document alone, as `check_schema` returns it but in Lark.

    Raises:
        UnusableSchema: *schema* cannot be enforced.
    """
    return f"%llguidance {{}}\nstart: {_json_rule(schema)}"


def offered_tools(request: Request) -> dict[int, Tool]:
    """The tools that may be called, by their index."""
    if request.tool_choice == "none":
        return {}
    tools = dict(enumerate(request.tools))
    return tools if isinstance(request.tool_choice, str) else {request.tool_choice: tools[request.tool_choice]}


def check_tool(tool: Tool, index: int) -> str:
    """The schema of the tool's arguments, an object's.

    Raises:
        UnusableSchema: it cannot be enforced, or the name is none.
    """
    if not TOOL_NAME.fullmatch(tool.name):
        text = f"tools[{index}]: a name has 1 to 64 letters, digits, `_` and `-`"
        raise UnusableSchema(text, reason="invalid_argument")
    try:
        schema = _object_schema(tool.parameters)
        check_schema(schema)
    except UnusableSchema as error:
        why = str(error).removeprefix("output_schema: ")
        raise UnusableSchema(f"tools[{index}].parameters: {why}", reason=error.reason) from None
    return schema


def _object_schema(parameters: str) -> str:
    """*parameters* as a schema that only objects follow; what is no JSON object is left to the check."""
    try:
        schema = json.loads(parameters)
    except (ValueError, RecursionError):
        return parameters
    if not isinstance(schema, dict):
        return parameters
    if schema.get("type", "object") != "object":
        raise UnusableSchema("arguments are an object: `type` must be object", reason="invalid_argument")
    return parameters if "type" in schema else json.dumps({"type": "object", **schema})


def _arguments_rule(index: int, tool: Tool) -> str:
    return _json_rule(check_tool(tool, index))


def _json_rule(schema: str) -> str:
    check_schema(schema)
    parsed: dict[str, Any] = json.loads(schema)
    rules = json.dumps(parsed)[:-1]
    return f"%json {rules}{', ' if parsed else ''}{WHITESPACE_RULE}}}"


def _quoted(text: str) -> str:
    return json.dumps(text)


def _without(marks: tuple[str, ...]) -> str:
    """A lexeme of any text that contains none of *marks*."""
    found = "|".join(_SPECIAL.sub(r"\\\1", mark).replace("\n", r"\n") for mark in marks)
    return f"/(?s:.*)/ & ~/(?s:.*)({found})(?s:.*)/"
