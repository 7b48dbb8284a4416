"""What compiled expressions call: arithmetic with CEL's limits and readings of a request; nothing is decided here."""

from __future__ import annotations

import math
from collections.abc import Callable

_MIN = -(2**63)
_MAX = 2**63 - 1


class Surprise(ArithmeticError):
    """A value that no check at load time can rule out: overflow, division by zero, a reading that is not a number."""


def not_a_number() -> float:
    """Called where a signal reads NaN.

    Raises:
        Surprise: always; a sensor that answers NaN knows nothing, and a comparison with it would say false.
    """
    raise Surprise("a signal is not a number")


def compile_pattern(pattern: str) -> Callable[[str], object | None]:
    """The search for a pattern of RE2, whose time is linear in the text; what it returns is None where none is found.

    Source: github.com/google/re2/wiki/Syntax. It finds the pattern anywhere in the text, as `matches` of CEL does.

    Raises:
        ValueError: this is not a pattern of RE2.
    """
    import re2  # only a policy that uses `matches` pays for it

    options = re2.Options()
    options.log_errors = False
    try:
        search: Callable[[str], object | None] = re2.compile(pattern, options).search
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be read"
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    return search


def settle(decisive: bool, *items: Callable[[], object]) -> bool:  # noqa: FBT001 - compiled code calls it
    """`||` of CEL where *decisive* is true, `&&` where it is false: an item of that value decides, whatever else fails.

    Raises:
        Exception: what the first item that failed raised, where no other one decided.
    """
    failure: Exception | None = None
    for item in items:
        try:
            if bool(item()) is decisive:
                return decisive
        except Exception as error:  # noqa: BLE001 - sensors may hand in anything, and another item may still decide
            failure = failure or error
    if failure is not None:
        raise failure
    return not decisive


def _checked(value: int) -> int:
    if _MIN <= value <= _MAX:
        return value
    raise Surprise("an int overflows 64 bits")


def _add(left: int, right: int) -> int:
    value = left + right
    return value if _MIN <= value <= _MAX else _checked(value)


def _subtract(left: int, right: int) -> int:
    return _checked(left - right)


def _multiply(left: int, right: int) -> int:
    return _checked(left * right)


def _divide(left: int, right: int) -> int:
    """Rounds toward zero, as CEL and C do."""
    if right == 0:
        raise Surprise("division by zero")
    quotient = abs(left) // abs(right)
    return _checked(quotient if (left < 0) == (right < 0) else -quotient)


def _remainder(left: int, right: int) -> int:
    """Has the sign of the dividend, as in CEL and C."""
    if right == 0:
        raise Surprise("division by zero")
    if left == _MIN and right == -1:
        raise Surprise("an int overflows 64 bits")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def _negate(value: int) -> int:
    return _checked(-value)


def _divide_double(left: float, right: float) -> float:
    """IEEE 754: a division by zero is infinite, or not a number."""
    if right != 0.0:
        return left / right
    if left == 0.0 or left != left:
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


ARITHMETIC: dict[str, Callable[..., int | float]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "remainder": _remainder,
    "negate": _negate,
    "divide_double": _divide_double,
}
"""The functions that a compiled expression calls, under the names that the compiler writes."""
