"""What is wrong with the tools and tool calls of a message, before a request is made of it. No text is quoted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.limits import RequestLimits
from hybrid_llm.core.tools import CHOICES, TOOL_NAME, parsed_arguments
from hybrid_llm.protos import hybrid_pb2 as pb

_LIMITS: Final = RequestLimits()


def tool_faults(message: pb.GenerateRequest) -> Iterator[str]:
    """Each fault, as a sentence of the protocol's vocabulary."""
    tools = message.tools
    if len(tools) > _LIMITS.tools or sum(tool.ByteSize() for tool in tools) > 2 * _LIMITS.tool_bytes:
        yield f"tools: at most {_LIMITS.tools} of {_LIMITS.tool_bytes} bytes are taken"
    for index, tool in enumerate(tools):
        if not TOOL_NAME.fullmatch(tool.name):
            yield f"tools[{index}]: a name has 1 to 64 letters, digits, `_` and `-`"
    if len({tool.name for tool in tools}) < len(tools):
        yield "tools: two have the same name"
    known = message.tool_choice in ("", *CHOICES) and 0 <= message.chosen_tool <= len(tools)
    if not known or (message.tool_choice == "required" and not tools):
        yield "tool_choice: must be auto, none or required, or one of the tools"
    yield from _call_faults(message)


def _call_faults(message: pb.GenerateRequest) -> Iterator[str]:
    count = 0
    for turn in message.messages:
        if not 0 <= turn.answers_call <= count:
            yield "messages: a result answers a tool call that is not there"
        if not all(parsed_arguments(call.arguments) is not None for call in turn.tool_calls):
            yield "the arguments of a tool call are no JSON object"
        count += len(turn.tool_calls)
    calls = list(message.answer_calls)
    whole = all(parsed_arguments(call.arguments) is not None for call in calls[:-1])
    if not whole or not all(TOOL_NAME.fullmatch(call.name) for call in calls):
        yield "answer_calls: only the last may be cut, and each has a name"
