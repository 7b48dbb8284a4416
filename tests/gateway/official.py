"""Bodies of requests that are made from the official clients' own types, and what is wrong with them by chance."""

from __future__ import annotations

import collections.abc as abc
import typing
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from random import Random
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

import anthropic.types as anthropic
import typing_extensions
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

TYPES: dict[str, tuple[Any, ...]] = {
    "/v1/chat/completions": (chat_create_params.CompletionCreateParamsStreaming,),
    "/v1/completions": (completion_create_params.CompletionCreateParamsStreaming,),
    "/v1/responses": (response_create_params.ResponseCreateParamsStreaming,),
    "/v1/messages": (
        message_create_params.MessageCreateParamsStreaming,
        beta_create_params.MessageCreateParamsStreaming,
        message_count_tokens_params.MessageCountTokensParams,
    ),
}
"""Route -> the types of its parameters in the official clients."""
_DEEPEST = 7
_LISTS = (list, abc.Iterable, abc.Sequence)
__all__ = ["TYPES", "anthropic", "beta", "kinds", "mutated", "parameters", "sample"]


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing_extensions.get_type_hints(kind)


def parameters(path: str) -> set[str]:
    """The names of all parameters that the official clients have for a route."""
    return {name for kind in TYPES[path] for name in _hints(kind)}


def kinds(union: Any, name: str = "type") -> set[str]:
    """The values that the property *name* has in the objects of *union*."""
    return set(_kinds(union, name))


def _kinds(kind: Any, name: str) -> Iterator[str]:
    if typing_extensions.is_typeddict(kind):
        yield from _words(_hints(kind).get(name))
        return
    for part in typing.get_args(kind):
        yield from _kinds(part, name)


def _words(kind: Any) -> Iterator[str]:
    if typing.get_origin(kind) is Literal:
        yield from typing.get_args(kind)
    else:
        for part in typing.get_args(kind):
            yield from _words(part)


def sample(kind: Any, random: Random, depth: int = 0) -> Any:
    """A value of *kind*, a type of the official clients, as JSON has it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if typing_extensions.is_typeddict(kind):
        hints = _hints(kind)
        optional = [name for name in hints if name not in kind.__required_keys__ and random.random() < 0.15]
        names = [*kind.__required_keys__, *(optional if depth < _DEEPEST else ())]
        return {name: sample(hints[name], random, depth + 1) for name in names}
    if origin in (Annotated, typing_extensions.Required, typing_extensions.NotRequired):
        return sample(parts[0], random, depth)
    if origin in (Union, UnionType):
        return sample(random.choice(parts), random, depth)
    if origin is Literal:
        return random.choice(parts)
    if origin in _LISTS or "Sequence" in str(origin):
        return [
            sample(parts[0], random, depth + 1) for _ in range(random.choice((0, 1, 1, 2)) if depth < _DEEPEST else 0)
        ]
    if origin in (dict, abc.Mapping):
        return {} if depth > _DEEPEST else {"key": sample(parts[1], random, depth + 1)}
    scalars = {str: "some text", int: 1, float: 0.5, bool: True, NoneType: None, object: "any", Any: 1}
    return scalars.get(kind, "other")


WRONG: tuple[Any, ...] = (None, True, 0, -1, 1.5, 1e300, "", "x", "\ud800", [], [None], ["x"], {}, {"type": "x"}, [[]])


def mutated(body: Any, random: Random) -> Any:
    """*body* with another value at one place, or without that place."""
    places = list(_places(body))
    holder, key = random.choice(places)
    if random.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
    else:
        holder[key] = deepcopy(random.choice(WRONG))  # it may be changed in turn
    return body


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _places(inner)
