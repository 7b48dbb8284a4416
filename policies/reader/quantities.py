"""Reads the values of a policy's keys: numbers, durations, percentages, money, names; no expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hybrid_llm.policies.reader.source import Faults
from hybrid_llm.policies.reader.yamltext import Scalar, Sequence, Value

NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
INTEGER = re.compile(r"[0-9]{1,9}")
DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)")
PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)%")
MONEY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ([A-Z]{3})")
SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
BUDGET = re.compile(MONEY.pattern + "/day")
_YAML_11 = re.compile(r"(?i:y|n|yes|no|on|off|true|false|null|~|\.nan|[-+]?\.inf)?")
_NUMBER_LIKE = re.compile(
    r"[-+]?(?:0[xXoObB][0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9]*)?|[0-9][0-9_.]*(?:[eE][-+]?[0-9]+)?)"
)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in a currency, by its three letters of ISO 4217."""

    amount: float
    currency: str


class Values:
    """Reads scalars; what is wrong with one goes to *faults*, and the answer is None."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def scalar(self, value: Value, wanted: str) -> Scalar | None:
        """*value*, if it is a scalar; *wanted* says what belongs here."""
        if isinstance(value, Scalar):
            return value
        self._faults.add(f"here stands {_kind(value)}, expected is {wanted}", value.offset)
        return None

    def text(self, value: Value, wanted: str) -> str | None:
        """A text. One that other readers of YAML take for something else must be in quotes."""
        scalar = self.scalar(value, wanted)
        if scalar is None:
            return None
        if scalar.plain and (_YAML_11.fullmatch(scalar.text) or _NUMBER_LIKE.fullmatch(scalar.text)):
            hint = f'"{scalar.text}" in quotes is a text' if scalar.text else "write a value or remove the key"
            what = f"`{scalar.text}` is not a text to every reader of YAML" if scalar.text else "the value is missing"
            self._refuse(scalar, f"{what}, expected is {wanted}", hint)
            return None
        if not scalar.text.strip():
            self._refuse(scalar, f"the text is empty, expected is {wanted}")
            return None
        return scalar.text

    def flag(self, value: Value) -> bool | None:
        """`true` or `false`, and none of YAML 1.1's other words."""
        scalar = self.scalar(value, "true or false")
        if scalar is None:
            return None
        if scalar.plain and scalar.text in {"true", "false"}:
            return scalar.text == "true"
        yes = scalar.text.lower() in {"y", "yes", "on", "true"}
        self._refuse(
            scalar, f"`{scalar.text}` is not true or false", f"write {'true' if yes else 'false'}, without quotes"
        )
        return None

    def integer(self, value: Value, least: int, most: int) -> int | None:
        """A whole number from *least* to *most*."""
        wanted = f"a whole number from {least} to {most}"
        scalar = self.scalar(value, wanted)
        if scalar is None:
            return None
        if not scalar.plain or not INTEGER.fullmatch(scalar.text) or not least <= int(scalar.text) <= most:
            self._refuse(scalar, f"`{scalar.text}` is not {wanted}", _number_hint(scalar))
            return None
        return int(scalar.text)

    def number(self, value: Value) -> float | None:
        """A number of at least 0."""
        scalar = self.scalar(value, "a number")
        if scalar is None:
            return None
        if not scalar.plain or not NUMBER.fullmatch(scalar.text) or len(scalar.text) > 300:
            self._refuse(scalar, f"`{scalar.text}` is not a number of at least 0, such as 1.0", _number_hint(scalar))
            return None
        return float(scalar.text)

    def duration(self, value: Value) -> float | None:
        """A positive duration, in seconds."""
        match = self._match(value, DURATION, "a duration such as 400ms, 10s, 5m or 1h")
        return self._positive(value, float(match[1]) * SECONDS[match[2]]) if match else None

    def percent(self, value: Value) -> float | None:
        """A percentage, as a share."""
        match = self._match(value, PERCENT, "a percentage such as 10%")
        if match is None:
            return None
        if float(match[1]) <= 100.0:
            return float(match[1]) / 100.0
        self._faults.add(f"`{match[0]}` is more than 100%", value.offset)
        return None

    def money(self, value: Value) -> Money | None:
        """A positive amount with its currency."""
        match = self._match(value, MONEY, "an amount with its currency, such as 0.02 USD")
        amount = self._positive(value, float(match[1])) if match else None
        return Money(amount, match[2]) if match and amount is not None else None

    def money_per_day(self, value: Value) -> Money | None:
        """A positive amount with its currency, for each day."""
        match = self._match(value, BUDGET, "an amount for each day, such as 5 USD/day")
        amount = self._positive(value, float(match[1])) if match else None
        return Money(amount, match[2]) if match and amount is not None else None

    def _match(self, value: Value, pattern: re.Pattern[str], wanted: str) -> re.Match[str] | None:
        scalar = self.scalar(value, wanted)
        if scalar is None:
            return None
        match = pattern.fullmatch(scalar.text) if len(scalar.text) < 40 else None
        if match is None:
            self._refuse(scalar, f"`{scalar.text}` is not {wanted}", "a number and its unit" if scalar.text else None)
        return match

    def _positive(self, value: Value, number: float) -> float | None:
        if number > 0.0:
            return number
        self._faults.add("this must be more than 0", value.offset)
        return None

    def _refuse(self, scalar: Scalar, message: str, hint: str | None = None) -> None:
        self._faults.add(message, scalar.offset, hint)


def _number_hint(scalar: Scalar) -> str | None:
    if not scalar.plain:
        return "write the number without quotes"
    if _NUMBER_LIKE.fullmatch(scalar.text) and re.search("[xXoObB_:]", scalar.text):
        return "readers of YAML disagree on this form; write digits only"
    return None


def _kind(value: Value) -> str:
    return "a list" if isinstance(value, Sequence) else "a group of keys"
