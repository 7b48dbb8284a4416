"""Makes a checked, complete `Request` from the arguments of an app, without any backend or policy."""

from __future__ import annotations

import difflib
import json
import math
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, cast, get_args

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.fields import Number, Whole
from hybrid_llm.core.limits import (
    DEADLINE_S,
    DEFAULT_DEADLINE_S,
    MAX_TOKENS,
    NAME_CHARACTERS,
    SAMPLING,
    STOP_CHARACTERS,
    STOP_TEXTS,
    Defaults,
)
from hybrid_llm.core.request import (
    GREEDY,
    GenerateOptions,
    Message,
    OutputSchema,
    Prompt,
    Request,
    Role,
    Sampling,
    Tool,
)

_ROLES: Final = get_args(Role)
_SAMPLING: Final = frozenset(f.name for f in fields(Sampling))
_KNOWN: Final = frozenset(GenerateOptions.__annotations__)


def make_request(
    prompt: Prompt,
    options: GenerateOptions,
    defaults: Defaults,
    *,
    deadline: float = DEFAULT_DEADLINE_S,
    count: Callable[[Request], int] | None = None,
) -> Request:
    """Check everything that can be checked without a model, and freeze it.

    *deadline*, in seconds, applies if neither the call nor the defaults have one; *count* counts the prompt's tokens.

    Raises:
        TypeError: an option does not exist; the message suggests the nearest one.
        InvalidRequest: a value is out of range; the message states what is allowed and never repeats the prompt.
    """
    _refuse_unknown(options)
    request = Request(
        messages=_messages(prompt),
        task=_text(options.get("task", "chat"), "task"),
        privacy=_tags(options.get("privacy", ())) | defaults.privacy,
        sampling=_sampling(options),
        max_tokens=_within(options.get("max_tokens", defaults.max_tokens), "max_tokens", MAX_TOKENS),
        deadline=_within(options.get("deadline", defaults.deadline or deadline), "deadline", DEADLINE_S),
        output_schema=_schema(options.get("output_schema")),
        tools=_tools(options.get("tools", ())),
        session_id=_name(options.get("session_id"), "session_id"),
        tenant=_name(options.get("tenant"), "tenant"),
        request_id=_name(options.get("request_id"), "request_id") or secrets.token_hex(16),
    )
    return request if count is None else replace(request, prompt_tokens=count(request))


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
        if set(item) != {"role", "content"}:
            raise InvalidRequest("prompt: a message is {'role': ..., 'content': ...} and nothing else", field="prompt")
        item = Message(role=cast(Role, item["role"]), content=item["content"])
    if not isinstance(item, Message) or item.role not in _ROLES or not isinstance(item.content, str):
        raise InvalidRequest(
            f"prompt: each message has a role ({', '.join(_ROLES)}) and a content that is text", field="prompt"
        )
    if _has_lone_surrogate(item.content):
        raise InvalidRequest("prompt: the text holds half a surrogate pair, which is not Unicode", field="prompt")
    return item


def _has_lone_surrogate(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _sampling(options: Mapping[str, Any]) -> Sampling:
    given = {name: value for name, value in options.items() if name in _SAMPLING}
    if not given:
        return GREEDY
    stop = _stop(given.pop("stop", ()))
    if given.get("seed", 0) is None:
        del given["seed"]
    return Sampling(**{name: _within(value, name, SAMPLING[name]) for name, value in given.items()}, stop=stop)


def _stop(value: str | Iterable[str]) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if len(texts) > STOP_TEXTS or not all(isinstance(text, str) and 0 < len(text) <= STOP_CHARACTERS for text in texts):
        raise InvalidRequest(f"stop: at most {STOP_TEXTS} texts of 1 to {STOP_CHARACTERS} characters", field="stop")
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
    """The schema as JSON text; a feature that no backend can enforce is rejected here, by name."""
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
    """What parses an answer under schema *value*: the pydantic model's own validation, else `json.loads`."""
    if value is None:
        return None
    parse: Callable[[str], object] = value.model_validate_json if isinstance(value, type) else json.loads
    return parse


def _within(value: Any, field: str, limits: Whole | Number) -> Any:
    whole = isinstance(limits, Whole)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if number and limits.least <= value <= limits.most:
        return value if whole else float(value)
    shown = "it must be"
    if number and (whole or math.isfinite(value)):
        shown = f"{value if whole else format(value, 'g')} is not"
    raise InvalidRequest(f"{field}: {shown} {limits.words}", field=field)


def _text(value: str, field: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARACTERS:
        raise InvalidRequest(f"{field}: it must be a text of 1 to {NAME_CHARACTERS} characters", field=field)
    return value


def _name(value: str | None, field: str) -> str | None:
    if value is None:
        return None
    name = _text(value, field)
    if not name.isascii() or not name.isprintable():
        raise InvalidRequest(f"{field}: use printable ASCII", field=field)
    return name
