"""Finds out how a chat template writes tool calls: what it makes of one call and of three is compared.

The answer is a `CallFormat`, if calls are written as a name and a JSON object with fixed texts around them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from hybrid_llm.backends.calls.formats import (
    HERMES,
    KNOWN,
    LLAMA3,
    MISTRAL,
    MISTRAL_ARGS,
    THOUGHT,
    CallFormat,
    call_text,
)
from hybrid_llm.core.tools import numbered_id

Turn = dict[str, Any]
Render = Callable[[list[Turn], list[Any] | None], str]
"""Renders a conversation with tools; raises whatever the template does."""

USER: Final[Turn] = {"role": "user", "content": "probe_user"}
NAMES: Final = ("probe_tool", "second_tool", "third_tool")
ARGUMENTS: Final = ({"probe_argument": "probe_value"}, {"other_argument": "value"}, {"third_argument": "other_value"})
TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "probe_described",
            "parameters": {"type": "object", "properties": {key: {"type": "string"} for key in arguments}},
        },
    }
    for name, arguments in zip(NAMES, ARGUMENTS, strict=True)
]
_TAG: Final = re.compile(r"<[^<>\s]{2,60}>|\[/?[A-Z_]{3,40}\]")
_HERMES: Final = re.compile(r'<tool_call>\s*\{"(?:name|arguments)": ')
_STARTS: Final = ("<", "[", "{")
"""How calls begin that can be distinct from text."""
_DECODER: Final = json.JSONDecoder()


class _Call(NamedTuple):
    """Where one call stands in a rendered conversation: its name, and its arguments."""

    begin: int
    name_end: int
    arguments: int
    end: int


@dataclass(frozen=True, slots=True)
class _Written:
    """What a template writes of the calls of one turn."""

    lead: str
    """Before the first name."""
    middles: tuple[str, ...]
    gaps: tuple[str, ...]
    """Between the arguments of a call and the name of the next."""
    rest: str
    """After the last arguments, up to the end of the turn."""


def called(count: int, content: str = "") -> list[Turn]:
    """A conversation in which *count* tools are called, and their results."""
    calls = [
        {"id": numbered_id(at + 1), "type": "function", "function": {"name": NAMES[at], "arguments": ARGUMENTS[at]}}
        for at in range(count)
    ]
    return [USER, {"role": "assistant", "content": content, "tool_calls": calls}, *(result(at) for at in range(count))]


def result(at: int) -> Turn:
    """The result of the call of that index."""
    return {"role": "tool", "content": "probe_result", "name": NAMES[at], "tool_call_id": numbered_id(at + 1)}


def tried(render: Render, turns: list[Turn], tools: list[Any] | None) -> str:
    """What *render* makes of *turns*; nothing if it refuses them."""
    try:
        return render([dict(turn) for turn in turns], tools)
    except Exception:  # noqa: BLE001 - a template is a program: it may end in any error
        return ""


def find_format(render: Render, rendered: str, vocabulary: Collection[str], ends: Collection[str]) -> CallFormat | None:
    """The format of the template of *render*, which has *rendered* a conversation with a tool, a call and its result.

    None if it has none, or one that cannot be written here: arguments that are no JSON, for instance.
    """
    if (found := derive(render, ends)) is not None:
        text = call_text(found, NAMES[0], "{}")
        return next((known for known in KNOWN if call_text(known, NAMES[0], "{}") == text), found)
    if _HERMES.search(rendered):
        return HERMES
    if "[TOOL_CALLS]" in rendered or "[TOOL_CALLS]" in vocabulary:  # its calls have ids, which we do not ask for
        return MISTRAL_ARGS if "[ARGS]" in rendered or "[ARGS]" in vocabulary else MISTRAL
    return LLAMA3 if '"parameters": {' in rendered and "<|python_tag|>" in vocabulary else None


def derive(render: Render, ends: Collection[str]) -> CallFormat | None:
    """The format in which the template of *render* writes calls; None if it has none that a `CallFormat` can hold.

    *ends* has the texts of the tokens that end a turn.
    """
    one, all_of = _written(render, 1, ends), _written(render, len(NAMES), ends)
    if one is None or not one.lead.startswith(_STARTS):
        return None
    if any(own in text for own in (numbered_id(1), *ends) for text in (one.lead, *one.middles)):
        return None
    if all_of is None:
        return _single(one) if numbered_id(1) not in one.rest else None
    # What is not the same for each call, as an id or a number is, cannot be written as a fixed text.
    is_fixed = len(set(all_of.gaps)) == 1 and set(all_of.middles) == {*one.middles}
    same = is_fixed and (all_of.lead, all_of.rest) == (one.lead, one.rest)
    return _several(one, all_of.gaps[0]) if same else None


def _single(one: _Written) -> CallFormat:
    """The format of a template that refuses several calls."""
    tag = _leading_tag(one.lead)
    begin, head = (tag, one.lead[len(tag) :]) if tag else (one.lead, "")
    return _made(begin, head, one, tail=one.rest, between="", close="")


def _several(one: _Written, gap: str) -> CallFormat:
    tail = _shared(gap, one.rest)
    head = _shared(one.lead[::-1], gap[len(tail) :][::-1])[::-1]
    begin = one.lead[: len(one.lead) - len(head)]
    if not _leading_tag(begin):  # what announces calls must be distinct from text
        tag = "" if begin else _leading_tag(head)
        begin, head = (tag, head[len(tag) :]) if tag else (one.lead, "")
    between, opened = gap[len(tail) : len(gap) - len(head)], ""
    if not between:  # then the head alone shows that another call follows
        opened, between, head = head, head, ""
    return _made(begin, head, one, opened=opened, tail=tail, between=between, close=one.rest[len(tail) :])


def _made(begin: str, head: str, one: _Written, *, opened: str = "", tail: str, between: str, close: str) -> CallFormat:
    return CallFormat(
        name="template",
        begin=begin,
        open=opened,
        head=head,
        middle=one.middles[0],
        tail=tail,
        between=between,
        close=close,
        mark="" if _leading_tag(begin) else "<tool_call>",
    )


def _shared(left: str, right: str) -> str:
    """What both begin with, up to the last tag that is whole."""
    size = next((at for at, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), None)
    shared = left[: min(len(left), len(right)) if size is None else size]
    opened = max(shared.rfind("<"), shared.rfind("["))
    cut = opened > max(shared.rfind(">"), shared.rfind("]")) and _TAG.match(left, opened) is not None
    return shared[:opened] if cut else shared


def _leading_tag(text: str) -> str:
    found = _TAG.match(text)
    return found[0] if found else ""


def _written(render: Render, count: int, ends: Collection[str]) -> _Written | None:
    for tools in (None, TOOLS):  # some templates show calls only beside tools
        text, begun = tried(render, called(count), tools), tried(render, [USER], tools)
        start = len(_shared(text, begun))
        calls = _calls(text, start, count) if text and USER["content"] in begun[:start] else None
        if calls is not None:
            return _around(text, start, calls, ends)
    return None


def _around(text: str, start: int, calls: list[_Call], ends: Collection[str]) -> _Written | None:
    rest = _until_end(text[calls[-1].end :], ends)
    if rest is None:
        return None
    lead = text[start : calls[0].begin]
    return _Written(
        lead=lead.rpartition(THOUGHT)[2].lstrip(),
        middles=tuple([text[call.name_end : call.arguments] for call in calls]),
        gaps=tuple([text[left.end : right.begin] for left, right in pairwise(calls)]),
        rest=rest.rstrip(),
    )


def _calls(text: str, start: int, count: int) -> list[_Call] | None:
    calls: list[_Call] = []
    for name, arguments in zip(NAMES[:count], ARGUMENTS, strict=False):
        begin = text.find(name, start)
        found = _object(text, begin + len(name), arguments) if begin >= 0 else None
        if found is None:
            return None
        calls.append(_Call(begin, begin + len(name), *found))
        start = found[1]
    return calls


def _object(text: str, start: int, value: object) -> tuple[int, int] | None:
    """Where the first JSON object after *start* begins and ends, if it is *value*."""
    at = text.find("{", start)
    try:
        found, end = _DECODER.raw_decode(text, at) if at >= 0 else (None, 0)
    except ValueError:
        return None
    return (at, end) if found == value else None


def _until_end(text: str, ends: Collection[str]) -> str | None:
    """What of *text* belongs to the turn; None if nothing ends it before the result."""
    limit = text.find("probe_result")
    places = [at for at in (text.find(end) for end in ends if end) if 0 <= at < limit]
    return text[: min(places)] if places else None
