"""What parses an answer under the app's own schema, and refuses one that does not follow it. Nothing of it is quoted.

A grammar makes the backends of this library follow a schema. But it was read without the values that pseudonyms stand
for, an answer may be continued by another backend, and an app's own backend need not have a grammar.

A schema may hold private texts: nothing that is made of one outlives its parser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from hybrid_llm.core.errors import OutputInvalid
from hybrid_llm.core.generation import AnswerParts
from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.request import OutputSchema, Request, SchemaModel
from hybrid_llm.core.threads import Aside, at_once
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.core.tracebacks import is_fault, scrub_traceback

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

Rules = Iterator[Any]
"""What a rule of a schema raises against a value: the errors of jsonschema."""

_WHY: Final = {
    "not_json": "it is not JSON",
    "model": "the pydantic model rejects it",
    "too_deep": "it is nested too deeply",
}
_MOST_DIGITS: Final = 1000
_QUICK: Final = 200_000
"""Characters of an answer times those of its schema that are checked in a millisecond or two."""
_TYPICAL: Final = 400
"""Characters of a schema, for a pydantic model."""


class OutputParser:
    """Parses answers under *schema*: by a pydantic model's own validation, else as JSON that follows the schema."""

    def __init__(self, schema: OutputSchema) -> None:
        self.model: type[SchemaModel] | None = schema if isinstance(schema, type) else None
        """The pydantic model, where the schema is one."""
        self._model: Callable[[str], object] | None = None
        self._size = _TYPICAL
        self._followed: str | None = None
        """An answer that follows the schema: it need not be checked again."""
        if isinstance(schema, type):
            self._model = schema.model_validate_json
        else:
            text = schema if isinstance(schema, str) else json.dumps(schema)
            self._validator, self._size = _validator(text), len(text)

    def is_quick(self, text: str) -> bool:
        """Whether *text* is checked so fast that an event loop may wait for it."""
        return len(text) * self._size <= _QUICK

    def __call__(self, text: str, backend: str) -> object:
        """Return the object that *text*, an answer of *backend*, stands for.

        Raises:
            OutputInvalid: it does not follow the schema.
        """
        fault, value = self._read(text)
        if not fault:
            return value
        reason, keyword = fault
        why = _WHY.get(reason, f"it breaks the rule of `{keyword}`")
        raise OutputInvalid(
            f"the answer of {backend} does not follow the output_schema: {why}",
            backend=backend,
            reason=reason,
            keyword=keyword,
        )

    def _read(self, text: str) -> tuple[tuple[()] | tuple[str, str], object]:
        """What is wrong with *text*, as a reason and a keyword, or nothing; and the object."""
        reason = "not_json"
        try:
            if text == self._followed:
                return (), _load(text)
            exact = _load(text, Decimal)
            reason = "model"
            if self._model is not None:
                return (), self._model(text)
            reason = "too_deep"
            error = next(self._validator.iter_errors(exact), None)
            if error is not None:
                return ("schema", str(error.validator)), None
            self._followed = text
            return (), _load(text)
        except BaseException as error:
            if not is_fault(error):
                raise
            return (reason, ""), None


class CallCheck:
    """Checks the tool calls of an answer against the tools of *request*, as the app wrote them."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parsers: dict[str, OutputParser] = {}

    def is_quick(self, calls: Sequence[ToolCall]) -> bool:
        """Whether *calls* are checked so fast that an event loop may wait for it."""
        size = sum(len(tool.parameters) for tool in self._request.tools)
        return sum(len(call.arguments) for call in calls) * max(size, _TYPICAL) <= _QUICK

    def __call__(self, calls: Sequence[ToolCall], backend: str, *, cut: bool = False) -> None:
        """Return if *calls*, all of the answer of *backend*, are what the request allows.

        Of an answer that a limit *cut*, the last call may not be whole, and the one that must be made may be missing.

        Raises:
            OutputInvalid: one is none of its tools, does not follow its schema, or there are too many or too few.
        """
        choice = self._request.tool_choice
        if calls and choice == "none":
            raise _no_call(backend, "none may be called")
        if not calls and not cut and choice not in ("auto", "none"):
            raise _no_call(backend, "a tool must be called, and none is")
        if len(calls) > 1 and not self._request.parallel_tool_calls:
            raise _no_call(backend, "there are several, and parallel_tool_calls is off")
        whole = calls[:-1] if cut and calls and not calls[-1].is_whole else calls
        for call in whole:
            self._check(call, backend)

    def _check(self, call: ToolCall, backend: str) -> None:
        tools, choice = self._request.tools, self._request.tool_choice
        offered = tools if isinstance(choice, str) else (tools[choice],)
        tool = next((tool for tool in offered if tool.name == call.name), None)
        if tool is None:
            raise _no_call(backend, "it is none of the tools that were offered")
        if not call.is_whole:
            raise _no_call(backend, "its arguments are no JSON object")
        parser = self._parsers.get(tool.name)
        if parser is None:
            parser = self._parsers[tool.name] = OutputParser(tool.parameters)
        try:
            parser(call.arguments, backend)
            return
        except OutputInvalid as error:
            keyword = error.keyword
        raise _no_call(backend, f"its arguments break the rule of `{keyword}`", keyword)


async def refusal(
    check_calls: CallCheck | None,
    parse: OutputParser | None,
    parts: AnswerParts,
    backend: str,
    aside: Aside,
    *,
    cut: bool = False,
) -> OutputInvalid | None:
    """Why the answer of *backend* is not what was asked for; *aside* where finding out takes long.

    Of one that a limit *cut*, the whole calls are checked; its text is no document yet.
    """
    calls, text = parts.tool_calls, parts.text
    if check_calls is not None:
        work = partial(_refused, partial(check_calls, calls, backend, cut=cut))
        refused = await (at_once if check_calls.is_quick(calls) else aside)(work, lambda _: None)
        if refused or calls:
            return refused
    if parse is None or cut:
        return None
    work = partial(_refused, partial(parse, text, backend))
    return await (at_once if parse.is_quick(text) else aside)(work, lambda _: None)


def _refused(check: Callable[[], object]) -> OutputInvalid | None:
    try:
        check()
    except OutputInvalid as error:
        scrub_traceback(error)
        return error
    return None


def _no_call(backend: str, why: str, keyword: str = "") -> OutputInvalid:
    text = f"the tool calls of {backend} are not what was asked for: {why}"
    return OutputInvalid(text, backend=backend, reason="tool_call", keyword=keyword)


def _load(text: str, number: Callable[[str], Any] = float) -> Any:
    return json.loads(text, parse_float=number, parse_constant=_no_number)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _Pattern(str):
    """A pattern of a schema, compiled when it is first needed, for as long as its schema lives."""

    @cached_property
    def _compiled(self) -> Any:
        import re2

        compiled = re2.compile(str(self))
        re2.purge()  # else the module would keep the pattern for as long as the process lives
        return compiled

    def is_in(self, text: str) -> bool:
        """Whether a part of *text* matches."""
        return self._compiled.search(text) is not None


def _with_patterns(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a schema, whose patterns can be compiled."""
    node = dict(pairs)
    if isinstance(node.get("pattern"), str):
        node["pattern"] = _Pattern(node["pattern"])
    if isinstance(node.get("patternProperties"), dict):
        node["patternProperties"] = {_Pattern(name): rule for name, rule in node["patternProperties"].items()}
    return node


def _validator(schema: str) -> Validator:
    """Numbers are compared exactly, as decimals; patterns match in linear time; no reference is fetched."""
    from jsonschema import Draft201909Validator, Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    parsed = json.loads(schema, parse_float=Decimal, object_pairs_hook=_with_patterns)
    default = Draft201909Validator if _has_tuples(parsed) else Draft202012Validator
    validator: Validator = _exact(validator_for(parsed, default=default))(parsed, registry=Registry())
    return validator


@cache
def _exact(base: Any) -> Any:
    """The validator *base*, one of a few, with our rules."""
    from jsonschema.validators import extend

    checker = base.TYPE_CHECKER.redefine("integer", lambda _, value: _is_integer(value))
    rules = {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "multipleOf": _multiple_of,
    }
    return extend(base, rules, type_checker=checker)  # type: ignore[no-untyped-call]


def _has_tuples(schema: object) -> bool:
    """Whether *schema* has `items` as a list, which `prefixItems` has replaced."""
    if isinstance(schema, Mapping):
        return isinstance(schema.get("items"), list) or any(map(_has_tuples, schema.values()))
    return isinstance(schema, list) and any(map(_has_tuples, schema))


def _is_integer(value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(_: Any, pattern: _Pattern, value: object, __: object) -> Rules:
    if isinstance(value, str) and not pattern.is_in(value):
        yield _broken()


def _pattern_properties(validator: Any, rules: Mapping[_Pattern, object], value: object, _: object) -> Rules:
    if isinstance(value, dict):
        for pattern, rule in rules.items():
            for name in value:
                if pattern.is_in(name):
                    yield from validator.descend(value[name], rule)


def _additional_properties(validator: Any, rule: object, value: object, schema: Mapping[str, Any]) -> Rules:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name in value:
        if name not in known and not any(pattern.is_in(name) for pattern in patterns):
            yield from validator.descend(value[name], rule) if isinstance(rule, dict) else () if rule else [_broken()]


def _broken() -> Any:
    from jsonschema import ValidationError

    return ValidationError("")


def _multiple_of(_: Any, divisor: int | Decimal, value: object, __: object) -> Rules:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return
    if not _divides(Decimal(divisor), Decimal(value)):
        yield _broken()


def _divides(divisor: Decimal, value: Decimal) -> bool:
    """Whether *value* is a multiple of *divisor*, however many digits both have."""
    least = min(int(divisor.as_tuple().exponent), int(value.as_tuple().exponent))
    if max(divisor.adjusted(), value.adjusted()) - least > _MOST_DIGITS:
        return False
    whole, part = (_scaled(number, -least) for number in (value, divisor))
    return part != 0 and whole % part == 0


def _scaled(number: Decimal, places: int) -> int:
    sign, digits, exponent = number.as_tuple()
    whole: int = int("".join(map(str, digits))) * 10 ** (int(exponent) + places)
    return -whole if sign else whole
