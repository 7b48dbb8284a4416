"""What compiled expressions call: arithmetic with CEL's limits, and `&&` and `||` whose sides may fail."""

from __future__ import annotations

import math
from collections.abc import Callable

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1


class Surprise(ArithmeticError):
    """A value that no check at load can rule out: an overflow, a division by zero, a signal that is not a number."""


def not_a_number() -> float:
    """Reject a signal that is NaN: its value is unknown, and a comparison with it would be false.

    Raises:
        Surprise: always.
    """
    raise Surprise("a signal is not a number")


def compile_pattern(pattern: str) -> Callable[[str], object | None]:
    """Compile an RE2 pattern to a search, whose time is linear in the text; it returns None if nothing is found.

    It finds the pattern anywhere in the text, as CEL's `matches` does. Source: github.com/google/re2/wiki/Syntax.

    Raises:
        ValueError: *pattern* is not valid in RE2.
    """
    import re2  # imported only for policies that use `matches`

    options = re2.Options()
    options.log_errors = False
    try:
        search: Callable[[str], object | None] = re2.compile(pattern, options).search
    except re2.error as error:
        reason = error.args[0] if error.args else "it cannot be read"
        raise ValueError(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)) from None
    return search


def settle(decisive: bool, *items: Callable[[], object]) -> bool:  # noqa: FBT001 - compiled code calls it
    """Evaluate CEL's `||` if *decisive* is true, else `&&`: an item of that value decides, even if others fail.

    Raises:
        Exception: what the first failing item raised, if no other item decides.
    """
    failure: Exception | None = None
    for item in items:
        try:
            if bool(item()) is decisive:
                return decisive
        except Exception as error:  # noqa: BLE001 - signals can be anything, and another item may still decide
            failure = failure or error
    if failure is not None:
        raise failure
    return not decisive


def _overflow() -> int:
    raise Surprise("an int overflows 64 bits")


def _divide(left: int, right: int) -> int:
    """Round toward zero, as CEL and C do."""
    if right == 0:
        raise Surprise("division by zero")
    if left == INT_MIN and right == -1:
        return _overflow()
    quotient = abs(left) // abs(right)
    return quotient if (left < 0) == (right < 0) else -quotient


def _remainder(left: int, right: int) -> int:
    """Keep the sign of the dividend, as CEL and C do."""
    if right == 0:
        raise Surprise("division by zero")
    if left == INT_MIN and right == -1:
        return _overflow()
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def _divide_double(left: float, right: float) -> float:
    """Divide as IEEE 754 does: by zero gives infinity or NaN."""
    if right != 0.0:
        return left / right
    if left == 0.0 or left != left:
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


ARITHMETIC: dict[str, Callable[..., int | float]] = {
    "divide": _divide,
    "remainder": _remainder,
    "overflow": _overflow,
    "divide_double": _divide_double,
}
"""The functions that a compiled expression calls, under the names that the compiler writes."""
