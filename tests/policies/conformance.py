"""Runs the conformance files of CEL (github.com/google/cel-spec) against the policy language, case by case.

    python -m tests.policies.conformance        writes the table of docs/cel.md again

Nothing here knows a test by its name: a case is out of scope because the parser or the checker refuses it with a
message of a known class, or because it binds a value that no field of a policy could hold.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies.language.check import Checker
from hybrid_llm.policies.language.compile import compile_expression
from hybrid_llm.policies.language.lexer import tokenize
from hybrid_llm.policies.language.parser import parse
from hybrid_llm.policies.language.schema import Objectives, Schema
from hybrid_llm.policies.language.types import Node, Type
from hybrid_llm.policies.reader.source import Fault

__all__ = ["FOLDER", "PAGE", "Outcome", "all_outcomes", "on_page", "outcomes", "table"]

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "cel"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "cel.md"
_MARKS = ("<!-- the table begins -->\n", "<!-- the table ends -->\n")

REASONS = {
    "maps, messages": r"^maps and messages",
    "indexing": r"^indexing",
    "null": r"^`null` is",
    "macros": r"^the macro",
    "uint, bytes": r"unsigned numbers|^byte strings",
    "conversions, types as values": r"^(int|uint|string|bytes|bool|type|dyn|duration|timestamp)\(\)|names a type",
    "timestamps": r"^get\w+\(\)",
    "extensions": r"^the extension",
    "optional values": r"^optional values",
    "namespaces, names in backticks": r"leading dot|backticks",
    "names and functions of the host": r"^there is no (`|function)",
    "mixed types in a list or `?:`": r"^a list holds one type|^both values of `\?`",
    "types checked before anything runs": r"cannot compare|does not take|needs an?|is never in|has no (fields|order)",
    "a pattern that is no literal": r"must be a text in quotes",
    "longer or deeper than a rule may be": r"^nested deeper|^more than|too long",
    "comments": r"^comments",
}
"""Class -> what a refusal of it says. A refusal of no class is a failure."""
BINDINGS = "bindings that no field of a policy could hold"
_ERRORS_TOO = frozenset({"types checked before anything runs", "mixed types in a list or `?:`"})
"""A case that expects an error passes where one of these refuses it earlier."""

_WORDS = frozenset({"true", "false", "null"})
_KINDS = {"bool_value": "bool", "int64_value": "int", "double_value": "double", "string_value": "string"}
_FIELDS = {
    "int": ("edge.queue", "edge.active"),
    "double": ("device.cpu_load", "device.memory_total_mb"),
    "string": ("request.task", "edge.name"),
    "bool": ("network.online", "edge.ready"),
}


@dataclass(frozen=True)
class Outcome:
    """*reason* is empty where the case passed or failed; *detail* says what went wrong."""

    file: str
    case: str
    passed: bool
    reason: str = ""
    detail: str = ""


class _Refused(Exception):
    pass


@functools.cache
def _file_class() -> Any:
    """The part of cel.expr.conformance.test.SimpleTestFile that is looked at; unknown fields are skipped."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="simple_part.proto", package="part", syntax="proto2")
    for name, parts in {
        "File": "section*:Section",
        "Section": "name:string test*:Test",
        "Test": "name:string expr:string check_only:bool container:string bindings*:Binding value:Value "
        "eval_error:Errors any_eval_errors:Any unknown:Any typed_result:Typed",
        "Typed": "result:Value deduced_type:Type",
        "Type": "primitive:.Primitive list_type:ListType",
        "ListType": "elem_type:Type",
        "Binding": "key:string value:Expr",
        "Expr": "value:Value",
        "Value": "bool_value:bool int64_value:int64 double_value:double string_value:string list_value:List",
        "List": "values*:Value",
        "Errors": "errors*:Error",
        "Error": "message:string",
        "Any": "",
    }.items():
        message = file.message_type.add(name=name)
        for number, part in enumerate(parts.split(), 1):
            key, kind = part.split(":")
            label = field.LABEL_REPEATED if key.endswith("*") else field.LABEL_OPTIONAL
            added = message.field.add(name=key.rstrip("*"), number=number, label=label)
            if kind[0].islower():
                added.type = getattr(field, f"TYPE_{kind.upper()}")
            else:
                added.type = field.TYPE_ENUM if kind[0] == "." else field.TYPE_MESSAGE
                added.type_name = f".part.{kind.lstrip('.')}"
    kinds = file.enum_type.add(name="Primitive")
    for number, kind in enumerate(("UNSPECIFIED", "BOOL", "INT64", "UINT64", "DOUBLE", "STRING", "BYTES")):
        kinds.value.add(name=kind if number else "PRIMITIVE_TYPE_UNSPECIFIED", number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("part.File"))


def outcomes(path: Path) -> Iterator[Outcome]:
    """What becomes of each case of the file."""
    file = text_format.Parse(path.read_text("utf-8"), _file_class()(), allow_unknown_field=True)
    for section in file.section:
        for test in section.test:
            passed, reason, detail = _judge(test)
            yield Outcome(path.name, f"{section.name}/{test.name}: {test.expr}", passed, reason, detail)


def _judge(test: Any) -> tuple[bool, str, str]:
    bound = _bound(test)
    if bound is None:
        return False, _refusal_of(test.expr) or BINDINGS, ""
    text, signals, request = bound
    error_wanted = test.HasField("eval_error") or test.HasField("any_eval_errors")
    try:
        typed = _checked(text)
    except _Refused as refusal:
        reason = _class_of(str(refusal))
        unbound = any("undeclared" in error.message or "unbound" in error.message for error in test.eval_error.errors)
        if error_wanted and (reason in _ERRORS_TOO or (unbound and reason.startswith("names"))):
            return True, "", ""
        return False, reason, "" if reason else f"refused: {refusal}"
    if test.check_only or test.HasField("typed_result"):
        wanted_type = test.typed_result.deduced_type
        if _type_of(wanted_type) != _plain(typed.type):
            return False, "", f"type {typed.type}, wanted {wanted_type}"
    if test.check_only:
        return True, "", ""
    try:
        value: object = compile_expression(typed, _SCHEMA)(request, signals)
    except ArithmeticError as error:
        return error_wanted, "", f"failed: {error}"
    wanted = _value_of(test.typed_result.result if test.HasField("typed_result") else test.value, test)
    return (
        not error_wanted and _equal(value, wanted),
        "",
        f"{value!r}, wanted {'an error' if error_wanted else wanted!r}",
    )


def _class_of(message: str) -> str:
    return next((name for name, pattern in REASONS.items() if re.search(pattern, message)), "")


def _refusal_of(text: str) -> str:
    """The class of what the parser alone refuses, whatever is bound."""
    try:
        parse(text)
    except Fault as fault:
        return _class_of(fault.message)
    return ""


_SCHEMA = Schema({"edge": Location.EDGE}, Objectives())


def _checked(text: str) -> Node:
    """The typed tree; raises `_Refused` with the first message."""
    faults: list[str] = []
    try:
        typed = Checker(_SCHEMA, frozenset()).expression(parse(text), lambda message, *_: faults.append(message))
    except Fault as fault:
        raise _Refused(fault.message) from None
    if faults:
        raise _Refused(faults[0])
    return typed


def _bound(test: Any) -> tuple[str, Signals, RequestMetadata] | None:
    """The expression with its bound names written as fields, and a world that holds their values; None if none can."""
    request, edge = RequestMetadata(), BackendState(name="edge", location=Location.EDGE)
    device, network, text = DeviceSignals(), NetworkSignals(), test.expr
    free = {kind: list(names) for kind, names in _FIELDS.items()}
    for binding in test.bindings:
        kind = _kind_of(binding.value.value)
        if kind not in _KINDS or not binding.key.isidentifier() or not free[_KINDS[kind]]:
            return None
        root, name = (field := free[_KINDS[kind]].pop(0)).split(".")
        value = {name: getattr(binding.value.value, kind)}
        request = replace(request, **value) if root == "request" else request
        edge = replace(edge, **value) if root == "edge" else edge
        device = replace(device, **value) if root == "device" else device
        network = replace(network, **value) if root == "network" else network
        text = _renamed(text, binding.key, field)
    return text, Signals(device=device, network=network, backends={"edge": edge}), request


def _renamed(text: str, name: str, field: str) -> str:
    try:
        tokens = tokenize(text)
    except Fault:
        return text
    for before, token in reversed(list(zip([None, *tokens], tokens, strict=False))):
        if (
            token.kind == "name"
            and token.text == name
            and name not in _WORDS
            and (before is None or before.text != ".")
        ):
            text = text[: token.start] + field + text[token.end :]
    return text


def _kind_of(value: Any) -> str:
    return next((name for name in (*_KINDS, "list_value") if value.HasField(name)), "")


def _value_of(value: Any, test: Any) -> object:
    kind = _kind_of(value)
    if not kind:
        return None if test.HasField("value") or test.HasField("typed_result") else True
    found = getattr(value, kind)
    return [_value_of(item, test) for item in found.values] if kind == "list_value" else found


def _equal(here: object, wanted: object) -> bool:
    if isinstance(here, tuple) and isinstance(wanted, list):
        return len(here) == len(wanted) and all(map(_equal, here, wanted))
    if isinstance(here, float) and isinstance(wanted, float) and math.isnan(wanted):
        return math.isnan(here)
    return type(here) is type(wanted) and here == wanted


def _type_of(deduced: Any) -> str:
    if deduced.HasField("list_type"):
        return f"list({_type_of(deduced.list_type.elem_type)})"
    names = {1: "bool", 2: "int", 4: "double", 5: "string"}
    return names.get(deduced.primitive, "unknown")


def _plain(kind: Type) -> str:
    return f"list({_plain(kind.item)})" if kind.item is not None else kind.kind


def table(found: list[Outcome]) -> str:
    """The table of docs/cel.md: per file the counts, and why the rest is out of scope."""
    lines = ["| file | pass | fail | out of scope | because of |", "|---|---|---|---|---|"]
    total = [0, 0, 0]
    for name in sorted({outcome.file for outcome in found}):
        here = [outcome for outcome in found if outcome.file == name]
        reasons = [outcome.reason for outcome in here if outcome.reason]
        counts = [sum(o.passed for o in here), sum(not o.passed and not o.reason for o in here), len(reasons)]
        total = [have + more for have, more in zip(total, counts, strict=True)]
        why = sorted(set(reasons), key=lambda reason: (-reasons.count(reason), reason))
        told = ", ".join(f"{reason} {reasons.count(reason)}" for reason in why)
        lines.append(f"| {name.removesuffix('.textproto')} | {counts[0]} | {counts[1]} | {counts[2]} | {told} |")
    lines.append(f"| **all** | **{total[0]}** | **{total[1]}** | **{total[2]}** | |")
    return "\n".join(lines)


def all_outcomes() -> list[Outcome]:
    """What becomes of every case of every file."""
    return [outcome for path in sorted(FOLDER.glob("*.textproto")) for outcome in outcomes(path)]


def on_page(text: str) -> str:
    """The table as the page has it."""
    return text.split(_MARKS[0])[1].split(_MARKS[1])[0].strip()


def _write() -> None:
    text = PAGE.read_text("utf-8")
    before, after = text.split(_MARKS[0])[0], text.split(_MARKS[1])[1]
    PAGE.write_text(f"{before}{_MARKS[0]}{table(all_outcomes())}\n{_MARKS[1]}{after}", "utf-8")


if __name__ == "__main__":
    _write()
