"""The messages and tools of a call, checked: what an app passes becomes records, and every fault has a name.

No message quotes a text of the app.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from typing import Any, Final, cast, get_args

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.limits import RequestLimits
from hybrid_llm.core.request import Message, Prompt, Role
from hybrid_llm.core.tools import CHOICES, TOOL_NAME, Tool, ToolCall, ToolChoice, numbered_id, parsed_arguments

_ROLES: Final = get_args(Role)
_KEYS: Final = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content", "refusal")
_KINDS: Final = frozenset(
    {"image_url", "image", "input_image", "input_audio", "audio", "video", "video_url", "file", "input_file"}
    | {"document", "refusal", "thinking", "redacted_thinking", "tool_use", "tool_result", "search_result"}
)
"""Kinds of parts that other APIs have."""
_TEXTS: Final = frozenset({"text", "input_text", "output_text"})
_TOOL: Final = {each.name: each.default for each in fields(Tool) if each.default is not MISSING}
_SHOWN: Final = 64


def unicode_text(text: str, field: str) -> str:
    """*text*. Raises InvalidRequest if it holds half a surrogate pair; the encoder's error would hold the text."""
    try:
        text.encode("utf-8")
        return text
    except UnicodeEncodeError:
        pass
    raise InvalidRequest(f"{field}: the text holds half a surrogate pair, which is not Unicode", field=field)


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """The conversation of *prompt*; the ids of its tool calls become their numbers.

    Raises:
        InvalidRequest: it is none, or empty.
    """
    messages = _numbered([_message(item, at) for at, item in enumerate(conversation_of(prompt))])
    if not any(message.content.strip() for message in messages):
        raise InvalidRequest("prompt: it is empty; pass at least one character of text", field="prompt")
    return messages


def conversation_of(prompt: Prompt) -> Sequence[Message | Mapping[str, Any]]:
    """The messages of *prompt* as the app wrote them, not checked.

    Raises:
        InvalidRequest: it is neither a text, nor a message, nor a list.
    """
    if isinstance(prompt, str):
        return (Message(role="user", content=prompt),)
    if isinstance(prompt, Message):
        return (prompt,)
    if not isinstance(prompt, list | tuple):
        raise InvalidRequest("prompt: pass a text, a Message, or a list of messages", field="prompt")
    return prompt


def _message(item: Message | Mapping[str, Any], at: int) -> Message:
    if isinstance(item, Mapping):
        item = _of_mapping(item, at)
    if not isinstance(item, Message) or item.role not in _ROLES or not isinstance(item.content, str):
        text = f"prompt: each message has a role ({', '.join(_ROLES)}) and a content that is text"
        raise InvalidRequest(text, field="prompt")
    _check_turn(item, at)
    for text in item.texts():
        unicode_text(text, "prompt")
    return item


def _check_turn(item: Message, at: int) -> None:
    if not isinstance(item.reasoning, str) or not isinstance(item.tool_call_id, str):
        raise _fault(at, "reasoning and tool_call_id are texts")
    if not isinstance(item.tool_calls, tuple) or not all(isinstance(call, ToolCall) for call in item.tool_calls):
        raise _fault(at, "tool_calls are records of the type ToolCall")
    if item.role != "assistant" and (item.tool_calls or item.reasoning):
        raise _fault(at, "only an assistant has tool_calls and reasoning")
    if item.role != "tool" and item.tool_call_id:
        raise _fault(at, "only a message of the role tool has a tool_call_id")
    for call in item.tool_calls:
        _check_call(call, at)


def _check_call(call: ToolCall, at: int) -> None:
    if not isinstance(call.name, str) or not TOOL_NAME.fullmatch(call.name) or not isinstance(call.id, str):
        raise _fault(at, "a tool call has an id, and a name of 1 to 64 letters, digits, `_` and `-`")
    if not isinstance(call.arguments, str) or parsed_arguments(call.arguments) is None:
        raise _fault(at, "the arguments of a tool call are a JSON object, as JSON text")


def _fault(at: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"prompt: messages[{at}]: {why}", field="prompt")


def _of_mapping(item: Mapping[str, Any], at: int) -> Message:
    unknown = next((key for key in item if key not in _KEYS), None)
    if unknown is not None or "role" not in item:
        near = difflib.get_close_matches(str(unknown)[:_SHOWN], _KEYS, n=1) if unknown is not None else []
        hint = f"; did you mean {near[0]!r}?" if near else ""
        text = "a message is {'role': ..., 'content': ...}, with tool_calls, tool_call_id or reasoning where there are"
        raise _fault(at, f"{text} some, and nothing else{hint}")
    if "name" in item and item["role"] != "tool":
        raise _fault(at, "only a message of the role tool has a name")
    reasoning = item.get("reasoning_content") or item.get("reasoning") or ""
    return Message(
        role=cast(Role, item["role"]),
        content=_content(item.get("content"), at, optional=bool(item.get("tool_calls"))),
        tool_calls=tuple(_calls(item.get("tool_calls") or (), at)),
        tool_call_id=item.get("tool_call_id") or "",
        reasoning=reasoning,
    )


def _content(content: object, at: int, *, optional: bool) -> str:
    """The text of a content: a text, or a list of parts that are text, which stand on lines of their own."""
    if content is None and optional:
        return ""
    if not isinstance(content, list | tuple):
        return cast(str, content)  # checked with the rest of the message
    return "\n".join(_part(part, f"messages[{at}].content[{number}]") for number, part in enumerate(content))


def _part(part: object, place: str) -> str:
    if isinstance(part, str):
        return part
    kind = str(part.get("type")) if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind in _TEXTS and isinstance(text, str):
        return text
    named = f"is of the kind {kind!r}" if kind in _KINDS else "is of an unknown kind"
    raise InvalidRequest(f"prompt: {place} {named}: parts of the kind 'text' are taken", field="prompt")


def _calls(value: object, at: int) -> Iterable[ToolCall]:
    if not isinstance(value, list | tuple):
        raise _fault(at, "tool_calls are a list")
    for call in value:
        if isinstance(call, ToolCall):
            yield call
            continue
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(call, Mapping):
            raise _fault(
                at, "a tool call is {'id': ..., 'type': 'function', 'function': {'name': ..., 'arguments': ...}}"
            )
        arguments = function.get("arguments", "{}")
        text = _dumped(arguments) if isinstance(arguments, Mapping) else arguments
        yield ToolCall(id=call.get("id") or "", name=cast(str, function.get("name")), arguments=cast(str, text))


def _dumped(arguments: Mapping[str, Any]) -> str:
    """*arguments* as JSON; what is none is refused with the rest of the call."""
    try:
        return json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):
        return ""


def _numbered(messages: Sequence[Message]) -> tuple[Message, ...]:
    """*messages* with numbers for the ids of their calls: an id may hold a text of the app, and no backend needs it."""
    known: dict[str, str] = {}
    waiting: list[str] = []
    numbered = []
    count = 0
    for at, message in enumerate(messages):
        if message.role == "tool":
            number = _answered(message, known, waiting, at)
            waiting = [each for each in waiting if each != number]
            message = replace(message, tool_call_id=number) if number != message.tool_call_id else message
        elif message.tool_calls:
            new = [numbered_id(count + at) for at in range(1, len(message.tool_calls) + 1)]
            count += len(new)
            known |= {call.id: id_ for call, id_ in zip(message.tool_calls, new, strict=True) if call.id}
            waiting = list(new)
            pairs = zip(message.tool_calls, new, strict=True)
            message = replace(message, tool_calls=tuple([replace(call, id=id_) for call, id_ in pairs]))
        numbered.append(message)
    return tuple(numbered)


def _answered(message: Message, known: Mapping[str, str], waiting: Sequence[str], at: int) -> str:
    """The call that a result answers: by its id; without one, the only call that waits for a result, if there is."""
    if message.tool_call_id and message.tool_call_id not in known:
        raise _fault(at, "no tool call before it has this tool_call_id")
    if message.tool_call_id:
        return known[message.tool_call_id]
    return waiting[0] if len(waiting) == 1 else ""


def tools_of(value: object, limits: RequestLimits) -> tuple[Tool, ...]:
    """The tools of a call: records, pydantic models and functions.

    Raises:
        InvalidRequest: one is none of them, its schema cannot be enforced, two share a name, or there is too much.
    """
    sources = tool_sources(value)
    if len(sources) > limits.tools:
        text = f"tools: there are {len(sources)}, the limit is {limits.tools} (`limits: tools` in hybrid.yaml)"
        raise InvalidRequest(text, field="tools")
    tools = tuple([_tool(source, at) for at, source in enumerate(sources)])
    size = sum(len(text.encode()) for tool in tools for text in (tool.name, tool.description, tool.parameters))
    if size > limits.tool_bytes:
        text = f"tools: they have {size} bytes, the limit is {limits.tool_bytes} (`limits: tool_bytes` in hybrid.yaml)"
        raise InvalidRequest(text, field="tools")
    if len({tool.name for tool in tools}) < len(tools):
        raise InvalidRequest("tools: two have the same name", field="tools")
    return tools


def tool_sources(value: object) -> tuple[Any, ...]:
    """What a list of tools holds.

    Raises:
        InvalidRequest: it is no list.
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        allowed = "pass a list of hybrid_llm.Tool records, typed functions or pydantic models"
        raise InvalidRequest(f"tools: {allowed}", field="tools")
    return tuple(value)


def _tool(source: object, at: int) -> Tool:
    """*source* as a tool that can be called, with the defaults in place of None."""
    from hybrid_llm.backends.calls.grammar import check_tool
    from hybrid_llm.backends.schema import UnusableSchema

    tool = Tool.of(source)
    missing = {name: value for name, value in _TOOL.items() if getattr(tool, name) is None and name != "call"}
    tool = replace(tool, **missing) if missing else tool
    texts = (tool.name, tool.description, tool.parameters)
    if not all(isinstance(text, str) for text in texts):
        needed = "name, description and parameters are texts; a JSON Schema becomes one by json.dumps"
        raise InvalidRequest(f"tools[{at}]: {needed}", field="tools")
    for text in texts:
        unicode_text(text, "tools")
    if tool.name in CHOICES:
        raise InvalidRequest(f"tools: {tool.name!r} is a value of tool_choice, and no name", field="tools")
    try:
        check_tool(tool, at)
    except UnusableSchema as error:
        why = str(error)
    else:
        return tool
    raise InvalidRequest(f"tools: {why.removeprefix('tools')}".replace(": [", "["), field="tools")


def choice_of(value: object, tools: Sequence[Tool]) -> ToolChoice:
    """What `tool_choice` means: a word, or the index of the tool of that name.

    Raises:
        InvalidRequest: it is neither, or a tool must be called and there is none.
    """
    if isinstance(value, Mapping):  # as in the OpenAI API
        function = value.get("function", value)
        value = function.get("name") if isinstance(function, Mapping) else None
    if value == "any":  # as in the Anthropic API
        value = "required"
    index = next((at for at, tool in enumerate(tools) if tool.name == value), None)
    if index is not None:
        return index
    if value not in CHOICES or (value == "required" and not tools):
        text = f"tool_choice: it must be {', '.join(CHOICES)}, or the name of one of the tools"
        raise InvalidRequest(text, field="tool_choice")
    return cast(ToolChoice, value)
