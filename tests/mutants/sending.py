"""Planted faults of what leaves for a node: the check of the bytes, and the translation to and from them."""

from __future__ import annotations

from tests.mutants.changes import drop, drop_argument, swap
from tests.mutants.mutant import Mutant

_MESSAGES = "hybrid_llm.backends.wire.messages"

MUTANTS = (
    Mutant(
        "a request is sent without a clearance",
        f"{_MESSAGES}:outgoing",
        swap("require_clearance(cleared, Location.CLOUD, seals=seals)", "cleared.request"),
    ),
    Mutant(
        "the bytes are not checked",
        f"{_MESSAGES}:outgoing",
        drop("check_clearance(data, cleared.clearance, model=model)"),
    ),
    Mutant(
        "the bytes are not compared with the clearance",
        f"{_MESSAGES}:check_clearance",
        drop("require_clearance(Cleared(request=sent, clearance=clearance), Location.CLOUD, seals=__)"),
    ),
    Mutant(
        "unknown fields are sent",
        f"{_MESSAGES}:check_clearance",
        swap(
            "again.SerializeToString(deterministic=True) != data",
            "again.SerializeToString() == b''",
        ),
    ),
    Mutant(
        "bytes that cannot be parsed raise another error",
        f"{_MESSAGES}:check_clearance",
        swap("(DecodeError, KeyError)", "KeyError"),
    ),
    Mutant(
        "an unknown role raises another error",
        f"{_MESSAGES}:check_clearance",
        swap("(DecodeError, KeyError)", "DecodeError"),
    ),
    Mutant("the message omits the tags", f"{_MESSAGES}:request_to_wire", swap("sorted(request.privacy)", "[]")),
    Mutant("the message omits the tenant", f"{_MESSAGES}:request_to_wire", drop_argument("GenerateRequest", "tenant")),
    Mutant(
        "the message omits the answer prefix",
        f"{_MESSAGES}:request_to_wire",
        drop_argument("GenerateRequest", "answer_prefix"),
    ),
    Mutant(
        "the message omits an empty schema",
        f"{_MESSAGES}:request_from_wire",
        swap("message.output_schema if message.HasField('output_schema') else None", "message.output_schema or None"),
    ),
    Mutant(
        "the message omits the stop texts",
        f"{_MESSAGES}:sampling_to_wire",
        swap("asdict(sampling)", "asdict(sampling) | {'stop': ()}"),
    ),
    Mutant(
        "a system message is sent as a user's",
        f"{_MESSAGES}:_ROLES",
        swap("role.upper()", "role.upper().replace('SYSTEM', 'USER')"),
    ),
)
