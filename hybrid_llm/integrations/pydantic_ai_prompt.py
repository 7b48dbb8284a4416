"""What an agent of pydantic-ai asks, as `generate` takes it: the conversation, and the tools that may be called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    CachePoint,
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ModelResponsePart,
    SystemPromptPart,
    TextContent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ToolOrOutput

from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.request import Message
from hybrid_llm.core.tools import ToolCall
from hybrid_llm.integrations.openai_form import tool_of


def tool_options(choice: Any, parameters: ModelRequestParameters) -> Json:
    """The options for the tools that may be called: an agent's own, and those that stand for its output."""
    tools = parameters.declared_tool_defs
    names, must = _chosen(choice, parameters)
    tools = {name: tool for name, tool in tools.items() if name in names}
    if not tools:
        return {}
    must = must or not parameters.allow_text_output
    offered = [tool_of(each.name, each.description, each.parameters_json_schema) for each in tools.values()]
    only = next(iter(tools)) if len(tools) == 1 else "required"
    return {"tools": offered, "tool_choice": only if must else "auto"}


def _chosen(choice: Any, parameters: ModelRequestParameters) -> tuple[frozenset[str], bool]:
    """The names of the tools that a `tool_choice` allows, and whether it asks for a call of one."""
    outputs = frozenset(tool.name for tool in parameters.output_tools)
    functions = frozenset(tool.name for tool in parameters.declared_function_tools)
    if choice in (None, "auto"):
        return functions | outputs, False
    if choice == "required":
        return functions, True
    if isinstance(choice, ToolOrOutput):
        return frozenset(choice.function_tools) | outputs, False
    if choice in ("none", []):
        return outputs, False
    return frozenset(choice), True


def prompt_of(messages: Sequence[ModelMessage], instructions: Sequence[str]) -> list[Message]:
    """The conversation as `generate` takes it; *instructions* stand after the system prompts that begin it.

    Raises:
        InvalidRequest: a part is no text, such as an image.
    """
    prompt = [turn for message in messages for turn in _turns(message)]
    said = [Message(role="system", content=each) for each in instructions]
    at = next((at for at, turn in enumerate(prompt) if turn.role != "system"), len(prompt))
    return [*prompt[:at], *said, *prompt[at:]]


def _turns(message: ModelMessage) -> Iterator[Message]:
    if isinstance(message, ModelRequest):
        yield from map(_asked, message.parts)
    else:
        yield _answered(message.parts)


def _asked(part: ModelRequestPart) -> Message:
    match part:
        case SystemPromptPart():
            return Message(role="system", content=part.content)
        case UserPromptPart():
            return Message(role="user", content=_text(part))
        case ToolReturnPart() if not part.files:
            return Message(role="tool", tool_call_id=part.tool_call_id, content=part.model_response_str())
        case ToolReturnPart():
            raise InvalidRequest("prompt: a tool returned a file; only texts are taken", field="prompt")
    raise UserError(f"`{type(part).__name__}` needs `model.prepare_messages(messages)`, which agents call themselves")


def _text(part: UserPromptPart) -> str:
    texts = []
    for item in [part.content] if isinstance(part.content, str) else part.content:
        if isinstance(item, str | TextContent):
            texts.append(item if isinstance(item, str) else item.content)
        elif not isinstance(item, CachePoint):
            kind = type(item).__name__
            raise InvalidRequest(f"prompt: a {kind} is no text; only texts are taken", field="prompt")
    return "\n".join(texts)


def _answered(parts: Sequence[ModelResponsePart]) -> Message:
    """One turn; what a provider's own tools left in it is not sent to another."""
    calls = [
        ToolCall(id=part.tool_call_id, name=part.tool_name, arguments=part.args_as_json_str())
        for part in parts
        if isinstance(part, ToolCallPart)
    ]
    return Message(
        role="assistant",
        content="\n\n".join(part.content for part in parts if isinstance(part, TextPart)),
        reasoning="\n\n".join(part.content for part in parts if isinstance(part, ThinkingPart)),
        tool_calls=tuple(calls),
    )
