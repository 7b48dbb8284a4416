"""Reads single values: texts, numbers, quantities and names, in forms that every reader of YAML takes alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core import fields
from hybrid_llm.core.files import scheme_of
from hybrid_llm.policies.reader.source import Fault, did_you_mean
from hybrid_llm.policies.reader.yamltext import Scalar

NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
MONEY: Final = rf"({NUMBER}) ([A-Z]{{3}})"
PER_DAY: Final = "/day"
_LONGEST_NUMBER: Final = 300
LONGEST_QUANTITY: Final = 39
_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_NUMBER: Final = re.compile(NUMBER)
_SIGNED: Final = re.compile(f"-?{NUMBER}")
# What YAML 1.1 reads as a boolean, null, number, sexagesimal or octal, YAML 1.2 as a text, or the other way round.
_NO_TEXT: Final = re.compile(r"[\x00\ud800-\udfff]")
_YAML_11: Final = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null|~|\.nan|[-+]?\.inf)?")
_NUMBER_LIKE: Final = re.compile(
    r"[-+]?(?:0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9]*)?"
    r"|[0-9][0-9_]*\.?[0-9_]*(?:[eE][-+]?[0-9]+)?)"
)

Names = Mapping[str, Collection[str]]
"""The words of a `Name` -> the names that are declared; without an entry any name is accepted."""


def read_scalar(kind: fields.Kind, value: Scalar, names: Names, folder: Path) -> Any:
    """The value of *kind* that *value* has; names must be among *names*, paths are relative to *folder*.

    Raises:
        Fault: *value* is of another kind.
    """
    match kind:
        case fields.Name():
            return _name(kind, value, names.get(kind.words))
        case fields.File():
            return _file(kind, value, folder)
    return _READERS[type(kind)](kind, value)


def _name(kind: fields.Name, value: Scalar, known: Collection[str] | None) -> str:
    name: str = _text(fields.Text(kind.words), value)
    if known is not None and name not in known:
        raise Fault(f"`{name}` is not {kind.words}", value.offset, did_you_mean(name, known))
    return name


def _file(kind: fields.File, value: Scalar, folder: Path) -> Any:
    text: str = _text(fields.Text(kind.words), value)
    if scheme := scheme_of(text):
        hint = "write {env: NAME} or {file: PATH}" if scheme in ("env", "file") else None
        raise Fault(f"`{scheme}:...` is not {kind.words}", value.offset, hint)  # the rest may hold a password
    path = folder / text
    if kind.names is None:
        return path
    known = kind.names()
    if text in known:
        return known[text]
    if "/" in text or "\\" in text or path.exists():
        return path
    nearest = "" if kind.remedy and not known else did_you_mean(text, known)
    raise Fault(f"`{text}` is not {kind.words}", value.offset, f"{nearest} {kind.remedy}".strip())


def _text(kind: fields.Text, value: Scalar) -> Any:
    """A text. One that YAML readers take for something else must be in quotes."""
    text = value.text
    if value.plain and not text:
        raise Fault(f"the value is missing; expected {kind.words}", value.offset, "write a value or remove the key")
    if value.plain and (_YAML_11.fullmatch(text) or _NUMBER_LIKE.fullmatch(text)):
        message = f"`{text}` is ambiguous in YAML; expected {kind.words}"
        raise Fault(message, value.offset, f'put it in quotes: "{text}"')
    if not text.strip():
        raise Fault(f"the text is empty; expected {kind.words}", value.offset)
    if _NO_TEXT.search(text):
        raise Fault(f"a NUL, or half a surrogate pair, is no text; expected {kind.words}", value.offset)
    try:
        return kind.convert(text)
    except ValueError as error:
        raise Fault(str(error), value.offset) from None


def _choice(kind: fields.Choice, value: Scalar) -> Any:
    if value.text in kind.values:
        return kind.values[value.text]
    near = difflib.get_close_matches(value.text, kind.values, n=1)
    other = f"the only value is {kind.words}" if len(kind.values) == 1 else None
    raise Fault(f"`{value.text}` is not {kind.words}", value.offset, f"did you mean `{near[0]}`?" if near else other)


def _version(kind: fields.Version, value: Scalar) -> int:
    if value.plain and value.text == kind.words:
        return int(value.text)
    raise Fault(
        f"only version {kind.words} can be read, not `{value.text}`", value.offset, f"write `version: {kind.words}`"
    )


def _flag(kind: fields.Flag, value: Scalar) -> bool:
    """`true` or `false`, and none of YAML 1.1's other words."""
    text = value.text
    if value.plain and text in {"true", "false"}:
        return text == "true"
    meant = {True: "true", False: "false"}.get(text.lower() in {"y", "yes", "on", "true"})
    near = difflib.get_close_matches(text, ("true", "false"), n=1)
    hint = f"did you mean `{near[0]}`?" if near and text not in near else f"write {meant}, without quotes"
    raise Fault(f"`{text}` is not {kind.words}", value.offset, hint)


def _whole(kind: fields.Whole, value: Scalar) -> int:
    if value.plain and _WHOLE.fullmatch(value.text) and kind.least <= int(value.text) <= kind.most:
        return int(value.text)
    raise Fault(f"`{value.text}` is not {kind.words}", value.offset, _number_hint(value))


def _number(kind: fields.Number, value: Scalar) -> float:
    form = _SIGNED if kind.least < 0.0 else _NUMBER
    if value.plain and form.fullmatch(value.text) and len(value.text) <= _LONGEST_NUMBER:
        number = float(value.text)
        if kind.least <= number <= kind.most:
            return number
    raise Fault(f"`{value.text}` is not {kind.words}", value.offset, _number_hint(value))


def _number_hint(value: Scalar) -> str | None:
    if not value.plain:
        return "write the number without quotes"
    if _NUMBER_LIKE.fullmatch(value.text) and re.search("[xXoObB_:eE]", value.text):
        return "this form is ambiguous in YAML; write digits only"
    return None


def _quantity(kind: fields.Quantity, value: Scalar) -> float:
    units = "|".join(kind.units)
    match = _matched(rf"({NUMBER})({units})", value, kind.words)
    number = float(match[1]) * kind.units[match[2]]
    if kind.positive and number <= 0.0:
        raise Fault("this must be more than 0", value.offset)
    if number > kind.most:
        raise Fault(f"`{value.text}` is more than {shown_quantity(kind, kind.most)}", value.offset)
    if number < kind.least:
        raise Fault(f"`{value.text}` is less than {shown_quantity(kind, kind.least)}", value.offset)
    return number


def _amount(kind: fields.Amount, value: Scalar) -> fields.Money:
    match = _matched(MONEY + (PER_DAY if kind.per_day else ""), value, kind.words)
    if float(match[1]) <= 0.0:
        raise Fault("this must be more than 0", value.offset)
    return fields.Money(float(match[1]), match[2])


def _matched(form: str, value: Scalar, words: str) -> re.Match[str]:
    match = re.fullmatch(form, value.text) if len(value.text) <= LONGEST_QUANTITY else None
    if match is None:
        hint = "write a number and its unit" if _NUMBER.fullmatch(value.text) else None
        raise Fault(f"`{value.text}` is not {words}", value.offset, hint)
    return match


def shown_quantity(kind: fields.Quantity, value: float) -> str:
    """*value* as a file has it, in the largest unit that it is a whole number of, else in the smallest."""
    if value == 0:
        return f"0{'s' if 's' in kind.units else next(iter(kind.units))}"
    for unit, factor in sorted(kind.units.items(), key=lambda pair: -pair[1]):
        number = round(value / factor, 9)
        if number >= 1 and number == int(number):
            return f"{int(number)}{unit}"
    unit, factor = min(kind.units.items(), key=lambda pair: pair[1])
    return f"{value / factor:g}{unit}"


_READERS: Final[Mapping[type, Callable[[Any, Scalar], Any]]] = {
    fields.Amount: _amount,
    fields.Choice: _choice,
    fields.Expression: lambda _, value: value,
    fields.Flag: _flag,
    fields.Number: _number,
    fields.Quantity: _quantity,
    fields.Text: _text,
    fields.Version: _version,
    fields.Whole: _whole,
}
