"""Translates between our records and the messages of protocol version 1, and checks a request before it leaves.

The last check reads the serialised bytes back and compares them with the clearance. Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final, TypeVar, cast, get_args

from google.protobuf.message import DecodeError

from hybrid_llm.core.clearance import Clearance, Cleared, require_clearance
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.limits import RECOMMENDED
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.request import GREEDY, Location, Message, Request, Role, Sampling, call_ordinals
from hybrid_llm.core.tools import CHOICES, Tool, ToolCall, ToolCallDelta, ToolChoice, numbered_id
from hybrid_llm.protos import hybrid_pb2 as pb

R = TypeVar("R")
_CHOICES: Final[dict[str, ToolChoice]] = {"": "auto", **{word: cast(ToolChoice, word) for word in CHOICES}}
_CHOICE_WORDS: Final[dict[ToolChoice, str]] = {choice: word for word, choice in _CHOICES.items() if word != "auto"}
PROTOCOL = 1
"""The version of the protocol that this code implements."""

_ROLES: dict[Role, pb.Role] = {role: getattr(pb, f"ROLE_{role.upper()}") for role in get_args(Role)}
_ROLE_NAMES: dict[int, Role] = {value: name for name, value in _ROLES.items()}
_REASONS: dict[FinishReason, pb.FinishReason] = {
    reason: getattr(pb, f"FINISH_REASON_{reason.name}") for reason in FinishReason
}
_REASON_NAMES: dict[int, FinishReason] = {value: reason for reason, value in _REASONS.items()}


def request_to_wire(request: Request, *, remaining: float, model: str = "") -> pb.GenerateRequest:
    """Return *request* as a message; *remaining* is the rest of its deadline, in seconds, *model* what is to answer.

    Raises:
        KeyError: the protocol does not have the role.
        ValueError: a number is out of the protocol's range, or text is not valid Unicode.
        TypeError: a field is not of the record's type.
    """
    return pb.GenerateRequest(
        messages=_messages_to_wire(request.messages),
        sampling=sampling_to_wire(request.sampling),
        max_tokens=request.max_tokens,
        deadline_seconds=remaining,
        tags=sorted(request.privacy),
        task=request.task,
        output_schema=request.output_schema,
        logprobs=request.logprobs,
        tools=[pb.Tool(name=t.name, description=t.description, parameters=t.parameters) for t in request.tools],
        tool_choice=_CHOICE_WORDS.get(request.tool_choice, ""),
        chosen_tool=request.tool_choice + 1 if isinstance(request.tool_choice, int) else 0,
        one_tool_call=not request.parallel_tool_calls,
        session_id=request.session_id,
        tenant=request.tenant,
        request_id=request.request_id,
        answer_prefix=request.answer_prefix,
        answer_reasoning=request.answer_reasoning,
        answer_calls=_calls_to_wire(request.answer_calls),
        model=model,
    )


def sampling_to_wire(sampling: Sampling) -> pb.Sampling:
    """The settings that were named; the node completes the others by what its model recommends."""
    values = asdict(sampling)
    named = values.pop("explicit")
    for name in RECOMMENDED:
        if name not in named and values[name] == getattr(GREEDY, name):
            del values[name]
    return pb.Sampling(**values, recommended=True)


def sampling_from_wire(message: pb.Sampling) -> Sampling:
    """The settings; an older client names all of them, and leaves out those that are neutral."""
    named = tuple(sorted(name for name in RECOMMENDED if not message.recommended or message.HasField(name)))
    return record_from_wire(Sampling, message, stop=tuple(message.stop), explicit=named)


def _messages_to_wire(messages: Sequence[Message]) -> list[pb.Message]:
    """The messages, with the numbers of tool calls in place of their ids."""
    return [
        pb.Message(
            role=_ROLES[message.role],
            content=message.content,
            tool_calls=_calls_to_wire(message.tool_calls),
            answers_call=ordinal,
            reasoning=message.reasoning,
        )
        for message, ordinal in zip(messages, call_ordinals(messages), strict=True)
    ]


def _calls_to_wire(calls: Sequence[ToolCall]) -> list[pb.ToolCall]:
    return [pb.ToolCall(name=call.name, arguments=call.arguments) for call in calls]


def _messages_from_wire(messages: Iterable[pb.Message]) -> Iterator[Message]:
    count = 0
    for message in messages:
        calls = tuple(_calls_from_wire(message.tool_calls, count))
        count += len(calls)
        yield Message(
            role=_ROLE_NAMES[message.role],
            content=message.content,
            tool_calls=calls,
            tool_call_id=numbered_id(message.answers_call) if message.answers_call else "",
            reasoning=message.reasoning,
        )


def _calls_from_wire(calls: Iterable[pb.ToolCall], count: int = 0) -> Iterator[ToolCall]:
    for number, call in enumerate(calls, count + 1):
        yield ToolCall(id=numbered_id(number), name=call.name, arguments=call.arguments)


def _choice_from_wire(message: pb.GenerateRequest) -> ToolChoice:
    """What `tool_choice` was. Raises KeyError for a word that this version does not know."""
    if message.chosen_tool:
        return message.chosen_tool - 1
    return _CHOICES[message.tool_choice]


def request_from_wire(message: pb.GenerateRequest, *, deadline: float) -> Request:
    """Return a message as a `Request` whose deadline is *deadline* seconds from now.

    Raises:
        KeyError: this version does not know the role.
    """
    return Request(
        messages=tuple(_messages_from_wire(message.messages)),
        task=message.task,
        privacy=frozenset(message.tags),
        sampling=sampling_from_wire(message.sampling),
        max_tokens=message.max_tokens,
        deadline=deadline,
        output_schema=message.output_schema if message.HasField("output_schema") else None,
        logprobs=message.logprobs if message.HasField("logprobs") else None,
        tools=tuple(record_from_wire(Tool, tool, call=None) for tool in message.tools),
        tool_choice=_choice_from_wire(message),
        parallel_tool_calls=not message.one_tool_call,
        session_id=message.session_id if message.HasField("session_id") else None,
        tenant=message.tenant if message.HasField("tenant") else None,
        request_id=message.request_id,
        answer_prefix=message.answer_prefix,
        answer_reasoning=message.answer_reasoning,
        answer_calls=tuple(_calls_from_wire(message.answer_calls)),
    )


def record_from_wire(kind: type[R], message: Any, **given: Any) -> R:
    """Return *message* as a record of *kind*, whose fields have the same names; *given* are the others.

    A field that was not sent keeps the record's default.
    """
    known = message.DESCRIPTOR.fields_by_name
    names = [each.name for each in fields(kind) if each.name not in given]  # type: ignore[arg-type]  # a dataclass
    sent = [name for name in names if not known[name].has_presence or message.HasField(name)]
    return kind(**{name: getattr(message, name) for name in sent}, **given)


def chunk_to_wire(chunk: Chunk) -> pb.GenerateChunk:
    """Return a chunk of an answer as a message."""
    message = pb.GenerateChunk(text=chunk.text, tokens=chunk.tokens, reasoning=chunk.reasoning)
    for delta in chunk.tool_calls:
        message.tool_calls.add(index=delta.index, name=delta.name, arguments=delta.arguments)
    for each in chunk.logprobs:
        top = [pb.Alternative(token=one.token, bytes=one.bytes, logprob=one.logprob) for one in each.top]
        message.logprobs.add(token=each.token, bytes=each.bytes, logprob=each.logprob, top=top)
    if chunk.finish_reason is not None:
        message.finish_reason = _REASONS[chunk.finish_reason]
        message.usage.MergeFrom(pb.Usage(**asdict(chunk.usage or Usage())))
        message.timings.MergeFrom(pb.Timings(**asdict(chunk.timings or Timings())))
    return message


def chunk_from_wire(message: pb.GenerateChunk) -> Chunk:
    """Return a message as a chunk of an answer.

    Raises:
        KeyError: this version does not know the finish reason.
    """
    calls = tuple([ToolCallDelta(index=d.index, name=d.name, arguments=d.arguments) for d in message.tool_calls])
    chunk = Chunk(
        text=message.text,
        tokens=message.tokens,
        reasoning=message.reasoning,
        tool_calls=calls,
        logprobs=tuple(map(_logprob_from_wire, message.logprobs)),
    )
    if message.finish_reason == pb.FINISH_REASON_UNSPECIFIED:
        return chunk
    return replace(
        chunk,
        finish_reason=_REASON_NAMES[message.finish_reason],
        usage=record_from_wire(Usage, message.usage),
        timings=record_from_wire(Timings, message.timings),
    )


def _logprob_from_wire(message: pb.TokenLogprob) -> TokenLogprob:
    return record_from_wire(
        TokenLogprob, message, top=tuple([record_from_wire(Alternative, each) for each in message.top])
    )


def outgoing(cleared: Cleared, *, remaining: float, seals: bool = False, model: str = "") -> bytes:
    """Return the bytes of a request that is cleared for the cloud; *remaining* is the rest of its deadline, in seconds.

    *seals*: the caller seals them before it sends them. *model*: the name of what is to answer, from a configuration.

    Raises:
        PrivacyViolation: the clearance does not cover the request, or not all that the bytes hold.
        KeyError, ValueError, TypeError: see `request_to_wire`.
    """
    request = require_clearance(cleared, Location.CLOUD, seals=seals)
    data = request_to_wire(request, remaining=remaining, model=model).SerializeToString(deterministic=True)
    check_clearance(data, cleared.clearance, model=model)
    return data


def check_clearance(data: bytes, clearance: Clearance, *, model: str = "") -> None:
    """Check that *data* holds the request that *clearance* was made for, for *model*, and nothing else.

    Raises:
        PrivacyViolation: it holds another text, or something that a request does not have.
    """
    try:
        message = pb.GenerateRequest.FromString(data)
        sent = request_from_wire(message, deadline=message.deadline_seconds)
    except (DecodeError, KeyError):
        raise _not_cleared() from None
    require_clearance(Cleared(request=sent, clearance=clearance), Location.CLOUD, seals=clearance.sealed)
    # Serialised again, it must give the same bytes: unknown fields would survive parsing unseen.
    again = request_to_wire(sent, remaining=message.deadline_seconds, model=model)
    if again.SerializeToString(deterministic=True) != data:
        raise _not_cleared()


def _not_cleared() -> PrivacyViolation:
    return PrivacyViolation("the bytes to send are not what was cleared", location=Location.CLOUD.value)
