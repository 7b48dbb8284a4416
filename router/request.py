"""A call of an app, and the checked, complete `Request` that is made of it, without any backend or policy."""

from __future__ import annotations

import asyncio
import difflib
import secrets
import time
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hybrid_llm.core.errors import DeadlineExceeded, InvalidRequest
from hybrid_llm.core.fields import Number, Whole
from hybrid_llm.core.limits import (
    DEADLINE_S,
    DEFAULT_DEADLINE_S,
    LOGPROBS,
    MAX_TOKENS,
    NAME_CHARACTERS,
    PRIORITY,
    RECOMMENDED,
    SAMPLING,
    STOP_CHARACTERS,
    STOP_TEXTS,
    Defaults,
    RequestLimits,
)
from hybrid_llm.core.request import (
    GREEDY,
    GenerateOptions,
    Message,
    OutputSchema,
    Prompt,
    Request,
    Sampling,
)
from hybrid_llm.router.conversation import choice_of, messages_of, tools_of, unicode_text

if TYPE_CHECKING:
    from hybrid_llm.router.observability.tracing import RequestTrace

T = TypeVar("T")
SHORT: Final = 2048
"""Characters of a prompt up to which counting and scanning take less than about 3 ms."""
_LIMITS: Final = RequestLimits()
_SAMPLING: Final = frozenset((*SAMPLING, "stop"))
_SIZED: Final = ("content", "text", "reasoning", "reasoning_content", "tool_calls", "function", "arguments")
"""Where a message has its texts."""
_SHOWN: Final = 1e18
"""Larger numbers are not repeated in a message: they may have thousands of digits."""
_KNOWN: Final = frozenset(GenerateOptions.__annotations__)


def make_request(
    prompt: Prompt,
    options: GenerateOptions,
    defaults: Defaults,
    *,
    deadline: float = DEFAULT_DEADLINE_S,
    created: float | None = None,
    limits: RequestLimits = _LIMITS,
) -> Request:
    """Check everything that can be checked without a model, and freeze it. An option that is None is not given.

    Args:
        prompt: What the app passed.
        options: What the app passed.
        defaults: What a request gets where the call sets nothing.
        deadline: Seconds that apply if neither the call nor the defaults have a deadline.
        created: `time.monotonic()` when the app called, from which the deadline counts; default: now.
        limits: How large the request may be.

    Raises:
        TypeError: an option does not exist; the message suggests the nearest one.
        InvalidRequest: a value is out of range; the message states what is allowed and never repeats the prompt.
    """
    given = given_options(options)
    _check_size(prompt, limits)
    tools = tools_of(given["tools"], limits) if "tools" in given else ()
    request = Request(
        created=time.monotonic() if created is None else created,
        deadline=deadline_of(given, defaults, deadline),
        messages=messages_of(prompt),
        task=_text(given.get("task", "chat"), "task"),
        privacy=_tags(given["privacy"]) | defaults.privacy if "privacy" in given else defaults.privacy,
        sampling=_sampling(given, defaults),
        max_tokens=_within(given.get("max_tokens", defaults.max_tokens), "max_tokens", MAX_TOKENS),
        logprobs=_within(given["logprobs"], "logprobs", LOGPROBS) if "logprobs" in given else None,
        priority=_within(given["priority"], "priority", PRIORITY) if "priority" in given else None,
        output_schema=_schema(given.get("output_schema")),
        tools=tools,
        tool_choice=choice_of(given.get("tool_choice", "auto"), tools),
        parallel_tool_calls=_flag(given.get("parallel_tool_calls", True), "parallel_tool_calls"),
        backends=_backends(given.get("backends")),
        session_id=_name(given.get("session_id"), "session_id"),
        tenant=_name(given.get("tenant"), "tenant"),
        request_id=_name(given.get("request_id"), "request_id") or secrets.token_hex(16),
    )
    _check_bytes(request, limits)
    return request


def _check_size(prompt: object, limits: RequestLimits) -> None:
    """Refuse what is too large by its numbers of messages and characters, before any message is looked at."""
    count = len(prompt) if isinstance(prompt, list | tuple) else 1
    if count > limits.messages:
        message = f"prompt: it has {count} messages, the limit is {limits.messages} (`limits: messages` in hybrid.yaml)"
        raise InvalidRequest(message, field="prompt")
    if (size := _size(prompt) - 16 * count) > limits.bytes:
        raise _too_many_bytes(size, limits)


def _check_bytes(request: Request, limits: RequestLimits) -> None:
    """Refuse what has too many bytes; a character has at most four."""
    texts = list(request.visible_text())
    if 4 * sum(map(len, texts)) > limits.bytes and (size := sum(len(text.encode()) for text in texts)) > limits.bytes:
        raise _too_many_bytes(size, limits)


def _too_many_bytes(size: int, limits: RequestLimits) -> InvalidRequest:
    message = f"prompt: the request has at least {size} bytes of text, the limit is {limits.bytes} bytes"
    return InvalidRequest(f"{message} (`limits: bytes` in hybrid.yaml)", field="prompt")


def given_options(options: GenerateOptions) -> Mapping[str, Any]:
    """The options that the app set: None means that an option is not given. Raises TypeError for an unknown one."""
    _refuse_unknown(options)
    return {name: value for name, value in options.items() if value is not None}


def not_named(named: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """The *known* backends that a call does not name, each with that reason. InvalidRequest if it names another one."""
    if not set(named) <= set(known):
        raise InvalidRequest(f"backends: there are {', '.join(known)}", field="backends")
    return {name: f"the call names {', '.join(named)}" for name in known if name not in named}


def deadline_of(given: Mapping[str, Any], defaults: Defaults, otherwise: float) -> float:
    """The deadline in seconds of a call with the options *given*. Raises InvalidRequest if it is out of range."""
    value: float = _within(given.get("deadline", defaults.deadline or otherwise), "deadline", DEADLINE_S)
    return value


def _refuse_unknown(options: Mapping[str, object]) -> None:
    if not options.keys() <= _KNOWN:
        unknown = [name for name in options if name not in _KNOWN]
        near = difflib.get_close_matches(unknown[0], _KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(_KNOWN))}"
        raise TypeError(f"unexpected option {unknown[0]!r}{hint}")


def _sampling(given: Mapping[str, Any], defaults: Defaults) -> Sampling:
    values = {name: value for name in RECOMMENDED if (value := getattr(defaults, name)) is not None}
    values.update((name, value) for name, value in given.items() if name in _SAMPLING)
    if not values:
        return GREEDY
    stop = _stop(values.pop("stop", ()))
    numbers = {name: _within(value, name, SAMPLING[name]) for name, value in values.items()}
    return Sampling(**numbers, stop=stop, explicit=tuple(sorted(numbers)))


def _items(value: object, field: str, allowed: str) -> tuple[Any, ...]:
    """The items of a collection; a text, a mapping or what has no items is of the wrong type."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InvalidRequest(f"{field}: {allowed}", field=field)
    return tuple(value)


def _stop(value: object) -> tuple[str, ...]:
    allowed = f"at most {STOP_TEXTS} texts of 1 to {STOP_CHARACTERS} characters"
    texts = (value,) if isinstance(value, str) else _items(value, "stop", allowed)
    if len(texts) > STOP_TEXTS or not all(isinstance(text, str) and 0 < len(text) <= STOP_CHARACTERS for text in texts):
        raise InvalidRequest(f"stop: {allowed}", field="stop")
    return tuple([unicode_text(text, "stop") for text in texts])


def _backends(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    allowed = "pass a list of one or more names of backends"
    names = _items(value, "backends", allowed)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidRequest(f"backends: {allowed}", field="backends")
    return names


def _tags(value: object) -> frozenset[str]:
    if isinstance(value, str):
        raise InvalidRequest(f"privacy: pass a set of tags, such as {{{value!r}}}", field="privacy")
    tags = _items(value, "privacy", "pass a set of tags, such as {'phi'}")
    if not all(isinstance(tag, str) and tag for tag in tags):
        raise InvalidRequest("privacy: every tag is a text that is not empty", field="privacy")
    return frozenset([unicode_text(tag, "privacy") for tag in tags])


def _schema(value: OutputSchema | None) -> str | None:
    """The schema as JSON text; a feature that no backend can enforce is rejected here, by name."""
    if value is None:
        return None
    text, fault = _checked_schema(value)
    if fault:  # raised here, where the original error, whose text may quote the schema, is not its context
        raise InvalidRequest(f"output_schema: {fault}", field="output_schema")
    return text


def _checked_schema(value: OutputSchema) -> tuple[str, str]:
    """The schema as JSON text, and what is wrong with it, if anything."""
    from hybrid_llm.backends.schema import UnusableSchema, as_text, check_schema

    try:
        schema = value.model_json_schema() if isinstance(value, type) else value
        text = schema if isinstance(schema, str) else as_text(schema)
        check_schema(text)
    except UnusableSchema as error:
        return "", str(error).removeprefix("output_schema: ")
    except Exception:  # noqa: BLE001  # a model's class is code of the app: it may raise anything, with any text
        return "", "it is not a schema; pass a JSON Schema as a dict or as JSON text, or a pydantic model"
    return text, ""


def _within(value: Any, field: str, limits: Whole | Number) -> Any:
    whole = isinstance(limits, Whole)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if number and limits.least <= value <= limits.most:
        return value if whole else float(value)
    shown = "it must be"
    if number and abs(value) < _SHOWN:
        shown = f"{value if whole else format(value, 'g')} is not"
    raise InvalidRequest(f"{field}: {shown} {limits.words}", field=field)


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{field}: it must be True or False", field=field)
    return value


def _text(value: str, field: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARACTERS:
        raise InvalidRequest(f"{field}: it must be a text of 1 to {NAME_CHARACTERS} characters", field=field)
    return unicode_text(value, field)


def _name(value: str | None, field: str) -> str | None:
    if value is None:
        return None
    name = _text(value, field)
    if not name.isascii() or not name.isprintable():
        raise InvalidRequest(f"{field}: use printable ASCII", field=field)
    return name


@dataclass(slots=True, kw_only=True)
class Incoming:
    """One call. *created* is read from the clock before anything else is done."""

    prompt: Prompt = field(repr=False)
    options: GenerateOptions = field(repr=False)
    created: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    """Seconds from *created*; None until the option is checked."""
    phase: str = "loading"
    """What is being done."""
    pin: str = ""
    """The backend to go on with, where the policy allows it: that of the steps before."""
    excluded: Mapping[str, str] = field(default_factory=dict)
    """Backends that are not to answer, each with the reason: they did already, for example."""
    trace: RequestTrace | None = field(default=None, repr=False)
    """What follows the request, if anything does."""

    @property
    def is_short(self) -> bool:
        """Whether it is read so fast that an event loop may wait for it; a schema or tools are parsed and compiled."""
        options = self.options
        return options.get("output_schema") is None and not options.get("tools") and _size(self.prompt) <= SHORT

    async def within(self, work: Awaitable[T]) -> T:
        """Wait for *work* until the deadline; before it is checked, until what the call asks for, if it is a number."""
        deadline = self.options.get("deadline") if self.deadline is None else self.deadline
        known = isinstance(deadline, int | float) and deadline > 0.0
        remaining = self.created + deadline - time.monotonic() if known and deadline is not None else None
        try:
            async with asyncio.timeout(remaining):
                return await work
        except TimeoutError:
            pass
        raise self.late()  # here, where the timeout and its frames are not the context

    def late(self) -> DeadlineExceeded:
        """The error of a call whose deadline passed before any backend was called."""
        elapsed = time.monotonic() - self.created
        limit = f" of {self.deadline:g} s" if self.deadline is not None else ""
        message = f"the deadline{limit} passed during {self.phase}; no backend was called"
        return DeadlineExceeded(message, backend="", elapsed=elapsed, phase=self.phase)


def _size(prompt: object) -> int:
    """Characters of what will be checked to be a prompt."""
    if isinstance(prompt, Message):
        return sum(map(len, filter(_is_text, prompt.texts())))
    if isinstance(prompt, str):
        return len(prompt)
    if isinstance(prompt, Mapping):
        return sum([_size(value) for name in _SIZED if (value := prompt.get(name)) is not None])
    if isinstance(prompt, list | tuple):
        return sum([_size(each) for each in prompt]) + len(prompt) * 16
    return 0


def _is_text(value: object) -> bool:
    return isinstance(value, str)
