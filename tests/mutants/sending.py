"""The planted faults of what leaves for a node: the last look at the bytes, and the translation to and from them."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_OUTGOING, _WIRE = "transport/outgoing.py", "transport/wire.py"

MUTANTS = (
    Mutant(
        "a request is sent without a clearance",
        _OUTGOING,
        "require_clearance(cleared, Location.CLOUD)\n    data",
        "cleared.request\n    data",
    ),
    Mutant("the bytes are not looked at", _OUTGOING, "    hold_to_clearance(data, cleared.clearance)\n", ""),
    Mutant(
        "the bytes are not held against the clearance",
        _OUTGOING,
        "    require_clearance(Cleared(request=sent, clearance=clearance), Location.CLOUD)\n",
        "",
    ),
    Mutant(
        "bytes beside the request pass",
        _OUTGOING,
        "SerializeToString(deterministic=True) != data:",
        "SerializeToString() == b'':",
    ),
    Mutant(
        "bytes that cannot be read end in another error",
        _OUTGOING,
        "except (DecodeError, KeyError):",
        "except KeyError:",
    ),
    Mutant(
        "a role that does not exist ends in another error",
        _OUTGOING,
        "except (DecodeError, KeyError):",
        "except DecodeError:",
    ),
    Mutant("the wire forgets the tags", _WIRE, "tags=sorted(request.privacy),", "tags=[],"),
    Mutant("the wire forgets the tenant", _WIRE, "        tenant=request.tenant,\n", ""),
    Mutant("the wire forgets the beginning of an answer", _WIRE, "        answer_prefix=request.answer_prefix,\n", ""),
    Mutant("the wire forgets an empty schema", _WIRE, 'if message.HasField("output_schema") else None', "or None"),
    Mutant("the wire forgets stop texts", _WIRE, "        stop=sampling.stop,\n", ""),
    Mutant(
        "the wire makes a system's message a user's",
        _WIRE,
        '    "system": pb.ROLE_SYSTEM,',
        '    "system": pb.ROLE_USER,',
    ),
)
