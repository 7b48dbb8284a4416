"""Turns the text of an expression into tokens with offsets and the values of literals."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybrid_llm.policies.reader.source import Fault

_SPACE = re.compile(r"[ \t\r\n\f]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|(?:[0-9]+\.[0-9]+|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?")
_STRING = re.compile(r"([rRbB]{0,2})(\"\"\"|'''|\"|')")
_OPERATOR = re.compile(r"&&|\|\||==|!=|<=|>=|[-+*/%<>!?:()\[\],.]")
_ESCAPE = re.compile(r"\\([abfnrtv\\?\"'`]|[xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2})?")
_OPERAND_FOLLOWS = re.compile(r"[ \t\r\n]*(?!in\b|!=)[A-Za-z0-9_(\"'\[.!-]")
_CURRENCY = re.compile(r"[ \t\r\n]+([A-Z]{3})(?![A-Za-z0-9_.(])")
_PER_DAY = re.compile(r"[ \t]*/[ \t]*day\b")
_OPTIONAL = re.compile(r"\?\.[A-Za-z_`]")
_NAMED_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_MILLISECONDS = {"us": (1.0, 1000.0), "ms": (1.0, 1.0), "s": (1e3, 1.0), "m": (6e4, 1.0), "h": (3.6e6, 1.0)}
"""Unit -> factor and divisor. Both are whole numbers, so that 7ms is exactly 7.0."""
_INT_MAX = 2**63 - 1
_UNSUPPORTED = {
    "{": "maps and messages of CEL are not supported",
    "}": "maps and messages of CEL are not supported",
    "=": "`=` is not an operator; write `==` to compare",
    "&": "bit operators are not supported; write `&&` for `and`",
    "|": "bit operators are not supported; write `||` for `or`",
    "#": "`#` begins no comment inside an expression",
    ";": "an expression is one value; there are no statements",
    "`": "names in backticks of CEL are not supported",
}


@dataclass(frozen=True, slots=True)
class Token:
    """*kind* is int, double, string, duration, percent, money, name, op or end; *value* is that of a literal.

    A duration is in ms, a percentage in percent, money in the currency that ends *text*.
    """

    kind: str
    text: str
    start: int
    value: bool | int | float | str = ""

    @property
    def end(self) -> int:
        """The offset after the token."""
        return self.start + len(self.text)


def tokenize(text: str) -> list[Token]:
    """Split *text* into tokens; the last one is of kind `end`.

    Raises:
        Fault: a character or literal is not supported.
    """
    tokens: list[Token] = []
    offset = _after_space(text, 0)
    while offset < len(text):
        tokens.append(_next(text, offset))
        offset = _after_space(text, tokens[-1].end)
    return [*tokens, Token("end", "", offset)]


def _after_space(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    return match.end() if match else offset


def _next(text: str, offset: int) -> Token:
    if text.startswith("//", offset):
        raise Fault("comments of CEL are not supported", offset, "put a YAML comment (#) above the rule")
    if _OPTIONAL.match(text, offset):
        raise Fault("optional values of CEL (`?.`) are not supported", offset, "guard with has()")
    if opening := _STRING.match(text, offset):
        return _string(text, offset, opening)
    if name := _NAME.match(text, offset):
        return Token("name", name.group(), offset)
    if number := _NUMBER.match(text, offset):
        return _number(text, offset, number)
    if operator := _OPERATOR.match(text, offset):
        return Token("op", operator.group(), offset)
    char = text[offset]
    raise Fault(_UNSUPPORTED.get(char, f"the character {char!r} has no meaning in an expression"), offset)


def _number(text: str, offset: int, match: re.Match[str]) -> Token:
    body, end = match.group(), match.end()
    if suffix := _NAME.match(text, end):
        return _quantity(body, suffix.group(), offset)
    if text.startswith("%", end) and not _OPERAND_FOLLOWS.match(text, end + 1):
        return Token("percent", body + "%", offset, _finite(body, offset))
    if currency := _CURRENCY.match(text, end):
        return _money(text, offset, end, currency)
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", body):
        return _integer(body, offset)
    return Token("double", body, offset, _finite(body, offset))


def _money(text: str, offset: int, end: int, currency: re.Match[str]) -> Token:
    if _PER_DAY.match(text, currency.end()):
        raise Fault("an amount in a condition has no `/day`", currency.end(), f"write {text[offset : currency.end()]}")
    return Token("money", text[offset : currency.end()], offset, _finite(text[offset:end], offset))


def _integer(body: str, offset: int) -> Token:
    value = int(body, 16) if body[:2].lower() == "0x" else int(body) if len(body) < 40 else _INT_MAX + 2
    if value > _INT_MAX + 1:
        raise Fault("this number does not fit an int of 64 bits", offset)
    return Token("int", body, offset, value)


def _quantity(body: str, unit: str, offset: int) -> Token:
    if unit in {"u", "U"}:
        raise Fault("unsigned numbers of CEL (uint) are not supported", offset, f"write {body}")
    if unit not in _MILLISECONDS or body[:2].lower() == "0x":
        hint = "durations are written 250us, 400ms, 2s, 10m or 1h"
        hint = f"write a space in between: {body} {unit}" if re.fullmatch("[A-Z]{3}", unit) else hint
        raise Fault(f"`{unit}` is not a unit", offset + len(body), hint)
    factor, divisor = _MILLISECONDS[unit]
    value = _finite(body, offset) * factor / divisor
    if value == float("inf"):
        raise Fault("this duration does not fit a double", offset)
    return Token("duration", body + unit, offset, value)


def _finite(body: str, offset: int) -> float:
    value = float(body) if body[:2].lower() != "0x" else float(int(body[:40], 16))
    if value == float("inf"):
        raise Fault("this number does not fit a double", offset)
    return value


def _string(text: str, offset: int, match: re.Match[str]) -> Token:
    prefix, quote = match[1].lower(), match[2]
    if "b" in prefix:
        raise Fault("byte strings of CEL are not supported", offset)
    end = _string_end(text, match.end(), quote, raw="r" in prefix)
    if end < 0:
        raise Fault("this string does not end", offset, f"close it with {quote}")
    body = text[match.end() : end]
    value = body if "r" in prefix else _unescape(body, match.end())
    return Token("string", text[offset : end + len(quote)], offset, value)


def _string_end(text: str, offset: int, quote: str, *, raw: bool) -> int:
    while offset < len(text):
        if text.startswith(quote, offset):
            return offset
        if len(quote) == 1 and text[offset] in "\r\n":
            return -1
        offset += 2 if text[offset] == "\\" and not raw else 1
    return -1


def _unescape(body: str, offset: int) -> str:
    return _ESCAPE.sub(lambda escape: _escaped(escape[1], offset + escape.start()), body)


def _escaped(code: str | None, offset: int) -> str:
    if code is None:
        hint = r"write \\ for a backslash, or r'...' for a raw string"
        raise Fault("this escape does not exist", offset, hint)
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code[0] in "xXuU":
        number = int(code[1:], 16)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            raise Fault("this escape is not a character", offset)
        return chr(number)
    return _NAMED_ESCAPES.get(code, code)
