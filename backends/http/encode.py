"""What leaves, in any API: sampling that was named, and bytes in which every text is cleared or a word of the API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any, Final

from hybrid_llm.backends.http.settings import HttpSettings
from hybrid_llm.core.errors import PrivacyViolation, RequestRejected
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.limits import RECOMMENDED
from hybrid_llm.core.request import GREEDY, Location, Request, Sampling
from hybrid_llm.core.tools import numbered_id

_SETTINGS: Final = (*RECOMMENDED, "seed")
_NEUTRAL: Final = frozenset(RECOMMENDED) - {"temperature"}
"""Settings whose defaults change nothing; a temperature of 0 is greedy."""


def checked(body: Json, allowed: Set[str], location: Location) -> bytes:
    """*body* as JSON, read back and compared.

    Raises:
        PrivacyViolation: a text in it is not in *allowed*.
    """
    data = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    for text in strings(json.loads(data)):
        if text not in allowed:
            raise PrivacyViolation("what would be sent is not what was cleared", location=location.value)
    return data


def texts_of(request: Request) -> set[str]:
    """Every text of *request*, and those inside of its JSON: a schema is sent as JSON, not as a text."""
    texts = set(request.visible_text())
    for text in (request.output_schema, *(tool.parameters for tool in request.tools)):
        if text is not None:
            texts.update(strings(json.loads(text)))
    calls = sum(len(message.tool_calls) for message in request.messages)
    return texts | {numbered_id(number) for number in range(1, calls + 1)}


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON document, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def named(sampling: Sampling) -> Mapping[str, float]:
    """The numbers that the app or its configuration named, or that are not the defaults.

    For the others a server has recommendations of its own.
    """
    values = {name: getattr(sampling, name) for name in _SETTINGS}
    explicit = (name for name in _SETTINGS if name in sampling.explicit or values[name] != getattr(GREEDY, name))
    return {name: values[name] for name in explicit if values[name] is not None}


def taken(settings: HttpSettings, sampling: Sampling, names: Set[str]) -> Mapping[str, float]:
    """What was `named`, for an API that has *names*; a value that asks for nothing needs no name there.

    Raises:
        RequestRejected: it lacks a setting; the message names it.
    """
    values = named(sampling)
    foreign = values.keys() - names
    if lacking := sorted(name for name in foreign if name not in _NEUTRAL or values[name] != getattr(GREEDY, name)):
        raise unsupported(settings, f"does not take {', '.join(lacking)}")
    return {name: value for name, value in values.items() if name in names}


def unsupported(settings: HttpSettings, what: str) -> RequestRejected:
    """The error of a request that this server cannot be asked for: another backend may take it."""
    return RequestRejected(f"{settings.name} {what}", backend=settings.name, reason="unsupported")
