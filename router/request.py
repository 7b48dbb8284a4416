"""From what an app passes to a `Request` that is checked and complete. It knows nothing of backends or policies."""

from __future__ import annotations

import difflib
import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, get_args

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import GenerateOptions, Message, OutputSchema, Prompt, Request, Role, Sampling, Tool

_ROLES: Final = get_args(Role)
_SAMPLING: Final = frozenset(f.name for f in fields(Sampling))
_KNOWN: Final = frozenset(GenerateOptions.__annotations__)
_GREEDY: Final = Sampling()
_MAX_TOKENS: Final = 1_000_000
_MAX_SEED: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a request gets where the call is silent. *deadline* is in seconds; None leaves it to the policy."""

    max_tokens: int = 256
    deadline: float | None = None
    privacy: frozenset[str] = frozenset()


def make_request(
    prompt: Prompt,
    options: GenerateOptions,
    defaults: Defaults,
    *,
    deadline: float = 60.0,
    count: Callable[[Request], int] | None = None,
) -> Request:
    """Check everything that can be checked without a model, and freeze it.

    *deadline*, in seconds, holds where neither the call nor the defaults name one; *count* counts the prompt's tokens.

    Raises:
        TypeError: an option that does not exist, with the nearest that does.
        InvalidRequest: a value out of range; the message says what is allowed, and never repeats the prompt.
    """
    _refuse_unknown(options)
    request = Request(
        messages=_messages(prompt),
        task=_text(options.get("task", "chat"), "task"),
        privacy=_tags(options.get("privacy", ())) | defaults.privacy,
        sampling=_sampling(options),
        max_tokens=_integer(options.get("max_tokens", defaults.max_tokens), "max_tokens", 1, _MAX_TOKENS),
        deadline=_number(options.get("deadline", defaults.deadline or deadline), "deadline", 0.001, 86_400.0),
        output_schema=_schema(options.get("output_schema")),
        tools=_tools(options.get("tools", ())),
        session_id=_name(options.get("session_id"), "session_id"),
        tenant=_name(options.get("tenant"), "tenant"),
        request_id=_name(options.get("request_id"), "request_id") or secrets.token_hex(16),
    )
    if count is not None:  # nobody else has seen the record yet, and a copy of it costs 3 us
        object.__setattr__(request, "prompt_tokens", count(request))
    return request


def _refuse_unknown(options: Mapping[str, object]) -> None:
    unknown = [name for name in options if name not in _KNOWN]
    if unknown:
        near = difflib.get_close_matches(unknown[0], _KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(_KNOWN))}"
        raise TypeError(f"unexpected option {unknown[0]!r}{hint}")


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    messages = tuple(_message(item) for item in _conversation(prompt))
    if not messages or not any(m.content.strip() for m in messages):
        raise InvalidRequest("prompt: it is empty; pass at least one character of text", field="prompt")
    return messages


def _conversation(prompt: Prompt) -> Sequence[Message | Mapping[str, str]]:
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    if isinstance(prompt, Message):
        return (prompt,)
    if not isinstance(prompt, list | tuple):
        raise InvalidRequest("prompt: pass a text, a Message, or a list of messages", field="prompt")
    return prompt


def _message(item: Message | Mapping[str, str]) -> Message:
    if isinstance(item, Mapping):
        item = _from_mapping(item)
    if not isinstance(item, Message) or item.role not in _ROLES or not isinstance(item.content, str):
        raise InvalidRequest(
            f"prompt: each message has a role ({', '.join(_ROLES)}) and a content that is text", field="prompt"
        )
    if _has_lone_surrogate(item.content):
        raise InvalidRequest("prompt: the text holds half a surrogate pair, which is not Unicode", field="prompt")
    return item


def _from_mapping(item: Mapping[str, Any]) -> Message:
    if set(item) != {"role", "content"}:
        raise InvalidRequest("prompt: a message is {'role': ..., 'content': ...} and nothing else", field="prompt")
    return Message(role=item["role"], content=item["content"])


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _sampling(options: Mapping[str, Any]) -> Sampling:
    given = {name: value for name, value in options.items() if name in _SAMPLING}
    if not given:
        return _GREEDY
    return Sampling(
        temperature=_number(given.get("temperature", 0.0), "temperature", 0.0, 100.0),
        top_p=_number(given.get("top_p", 1.0), "top_p", 1e-6, 1.0),
        top_k=_integer(given.get("top_k", 0), "top_k", 0, _MAX_TOKENS),
        min_p=_number(given.get("min_p", 0.0), "min_p", 0.0, 1.0),
        repetition_penalty=_number(given.get("repetition_penalty", 1.0), "repetition_penalty", 0.01, 100.0),
        seed=None if given.get("seed") is None else _integer(given["seed"], "seed", 0, _MAX_SEED),
        stop=_stop(given.get("stop", ())),
    )


def _stop(value: str | Iterable[str]) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if len(texts) > 16 or not all(isinstance(text, str) and 0 < len(text) <= 256 for text in texts):
        raise InvalidRequest("stop: at most 16 texts of 1 to 256 characters", field="stop")
    return texts


def _tags(value: str | Iterable[str]) -> frozenset[str]:
    if isinstance(value, str):
        raise InvalidRequest(f"privacy: pass a set of tags, such as {{{value!r}}}", field="privacy")
    tags = frozenset(value)
    if not all(isinstance(tag, str) and tag for tag in tags):
        raise InvalidRequest("privacy: every tag is a text that is not empty", field="privacy")
    return tags


def _tools(value: Iterable[Tool]) -> tuple[Tool, ...]:
    tools = tuple(value)
    if not all(isinstance(tool, Tool) for tool in tools):
        raise InvalidRequest("tools: pass hybrid_llm.Tool records", field="tools")
    return tools


def _schema(value: OutputSchema | None) -> str | None:
    """The schema as JSON text; what no backend here could enforce is refused now, by name."""
    if value is None:
        return None
    from hybrid_llm.backends.schema import UnusableSchema, check_schema

    try:
        schema = value.model_json_schema() if isinstance(value, type) else value
        text = schema if isinstance(schema, str) else json.dumps(schema, separators=(",", ":"))
        check_schema(text)
    except UnusableSchema as error:
        raise InvalidRequest(f"output_schema: {error}".replace(": output_schema", ""), field="output_schema") from None
    except (AttributeError, TypeError, ValueError):
        hint = "pass a JSON Schema as a dict or as JSON text, or a pydantic model"
        raise InvalidRequest(f"output_schema: it is not a schema; {hint}", field="output_schema") from None
    return text


def parser_of(value: OutputSchema | None) -> Callable[[str], object] | None:
    """What makes an object of an answer that follows *value*: the model's own validation, else JSON; None without."""
    if value is None:
        return None
    parse: Callable[[str], object] = value.model_validate_json if isinstance(value, type) else json.loads
    return parse


def _number(value: float, field: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidRequest(f"{field}: it must be a finite number from {low:g} to {high:g}", field=field)
    if not low <= value <= high:
        raise InvalidRequest(f"{field}: {value:g} is not from {low:g} to {high:g}", field=field)
    return float(value)


def _integer(value: int, field: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{field}: it must be a whole number from {low} to {high}", field=field)
    if not low <= value <= high:
        raise InvalidRequest(f"{field}: {value} is not from {low} to {high}", field=field)
    return value


def _text(value: str, field: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 128:
        raise InvalidRequest(f"{field}: it must be a text of 1 to 128 characters", field=field)
    return value


def _name(value: str | None, field: str) -> str | None:
    if not value and value is None:
        return None
    name = _text(value or "", field)
    if not name.isascii() or not name.isprintable():
        raise InvalidRequest(f"{field}: use printable ASCII", field=field)
    return name
