"""Records made in Python are held to the same limits as those read from a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from hybrid_llm.core import fields
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.secret import without_credentials

_PLAIN: Final = (bool, int, float)


class Checked:
    """A record whose fields are made by `fields.key`: it refuses what the reader of its file refuses.

    So what can be constructed works: `EdgeConfig(max_concurrency=2.7)` is an error, not a backend with two slots.

    Raises:
        ConfigError: a value is of another kind or out of range.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        for key in fields.keys_of(type(self)):
            value = getattr(self, key.attribute)
            by_default = value is key.default or (key.required and value is None)  # None: the reader reported it
            if not by_default and not fits(key.kind, value):
                shown = without_credentials(repr(value))
                raise ConfigError(f"{type(self).__name__}: {key.attribute}: {shown} is not {words(key.kind)}")


def fits(kind: fields.Kind, value: Any) -> bool:
    """Whether *value*, as a record holds it, is of *kind*."""
    match kind:
        case fields.ListOf(item=item):
            return not isinstance(value, str) and hasattr(value, "__iter__") and all(fits(item, one) for one in value)
        case fields.MapOf(value=of):
            return isinstance(value, Mapping) and all(fits(of, one) for one in value.values())
        case fields.OneOf(kinds):
            return any(fits(one, value) for one in kinds)
    return _fits_scalar(kind, value)


def _fits_scalar(kind: fields.Kind, value: Any) -> bool:
    match kind:
        case fields.Whole(least, most):
            return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        case fields.Number(least, most) | fields.Quantity(least=least, most=most):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and least <= value <= most and not (_positive(kind) and value <= 0)
        case fields.Flag():
            return isinstance(value, bool)
        case fields.Choice(values):
            return any(value is known or value == known for known in values.values())
        case fields.File():
            return isinstance(value, str | os.PathLike)
        case fields.Text():
            return value is not None and type(value) not in _PLAIN  # or what its `convert` made of it
    return value is not None  # a record with checks of its own


def words(kind: fields.Kind) -> str:
    """The kind in messages about a value in Python, where a quantity is a plain number."""
    if not isinstance(kind, fields.Quantity):
        return kind.words
    least = f"more than {kind.least:g}" if kind.positive and not kind.least else f"at least {kind.least:g}"
    return f"a number of {least}" + ("" if kind.most == float("inf") else f" and at most {kind.most:g}")


def _positive(kind: fields.Number | fields.Quantity) -> bool:
    return isinstance(kind, fields.Quantity) and kind.positive
