"""Checks every field of a request before an engine sees it: one bad number must not cost the others their answers.

The messages of its errors name fields and limits, and never quote what was sent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from hybrid_llm.backends.transport.wire import request_from_wire
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.errors import RequestRejected
from hybrid_llm.router.types import Request

__all__ = ["NODE", "check_request"]

NODE = "node"
"""The name by which a node's own errors call it; the client puts its own name in its place."""

_MAX_MESSAGES = 4096
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256
_MAX_TAGS = 64
_MAX_NAME_CHARS = 128
_MAX_TOKENS = 1_000_000
_MAX_TOP_K = 1_000_000


def check_request(message: pb.GenerateRequest, *, deadline: float) -> Request:
    """Return a request that is within all limits; its clock starts now and has *deadline* seconds.

    Raises:
        RequestRejected: `invalid_argument` with the first fault; `unsupported` for what this version cannot do.
    """
    fault = next(_faults(message), None)
    if fault is not None:
        raise RequestRejected(fault, backend=NODE, reason="invalid_argument")
    if message.tools:
        raise RequestRejected("this node does not take tools", backend=NODE, reason="unsupported")
    return request_from_wire(message, deadline=deadline)


def _faults(message: pb.GenerateRequest) -> Iterator[str]:
    yield from _conversation_faults(message)
    yield from _number_faults(message)
    yield from _sampling_faults(message.sampling)
    yield from _name_faults(message)
    yield from _schema_faults(message)


def _conversation_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not 0 < len(message.messages) <= _MAX_MESSAGES:
        yield f"messages: between 1 and {_MAX_MESSAGES} are taken, not {len(message.messages)}"
    if any(m.role not in pb.Role.values() or m.role == pb.ROLE_UNSPECIFIED for m in message.messages):
        yield "messages: a role is unknown; system, user, assistant and tool are taken"
    if not any(m.content and not m.content.isspace() for m in message.messages):
        yield "messages: the prompt is empty"


def _number_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not 0 < message.max_tokens <= _MAX_TOKENS:
        yield f"max_tokens: must be between 1 and {_MAX_TOKENS}"
    if not 0 <= message.deadline_seconds < math.inf:
        yield "deadline_seconds: must be a finite number, 0 or more"


def _sampling_faults(sampling: pb.Sampling) -> Iterator[str]:
    if not 0 <= sampling.temperature <= 100:
        yield "sampling.temperature: must be between 0 and 100"
    if sampling.HasField("top_p") and not 0 < sampling.top_p <= 1:
        yield "sampling.top_p: must be above 0 and at most 1"
    if not 0 <= sampling.top_k <= _MAX_TOP_K:
        yield f"sampling.top_k: must be between 0 and {_MAX_TOP_K}"
    if not 0 <= sampling.min_p <= 1:
        yield "sampling.min_p: must be between 0 and 1"
    if sampling.HasField("repetition_penalty") and not 0 < sampling.repetition_penalty <= 100:
        yield "sampling.repetition_penalty: must be above 0 and at most 100"
    if len(sampling.stop) > _MAX_STOPS or any(not 0 < len(text) <= _MAX_STOP_CHARS for text in sampling.stop):
        yield f"sampling.stop: at most {_MAX_STOPS} texts of 1 to {_MAX_STOP_CHARS} characters are taken"


def _name_faults(message: pb.GenerateRequest) -> Iterator[str]:
    for field in ("task", "session_id", "tenant", "request_id"):
        if not _is_name(getattr(message, field)):
            yield f"{field}: at most {_MAX_NAME_CHARS} printable characters are taken"
    if len(message.tags) > _MAX_TAGS or not all(tag and _is_name(tag) for tag in message.tags):
        yield f"tags: at most {_MAX_TAGS} of 1 to {_MAX_NAME_CHARS} printable characters are taken"


def _is_name(text: str) -> bool:
    return len(text) <= _MAX_NAME_CHARS and (not text or text.isprintable())


def _schema_faults(message: pb.GenerateRequest) -> Iterator[str]:
    if not message.HasField("output_schema"):
        return
    try:
        schema = json.loads(message.output_schema)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict | bool):
        yield "output_schema: must be a JSON Schema as JSON text"
