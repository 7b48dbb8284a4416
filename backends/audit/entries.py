"""What one record of an audit log says: names, counts, codes and times; it has no room for a text."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, Self

Event = Literal["begin", "end", "refused", "gap"]
"""`begin`: an admitted request, before any work. `end`: that request is over. `refused`: a request that was not
admitted, or *count* of them. `gap`: records that could not be written are missing before this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One event. An empty field is unknown, or does not apply to the event."""

    event: Event
    at_ms: int
    """Milliseconds since 1970, UTC."""
    call: str = ""
    """Joins `begin` and `end`: unique in its log. Clients choose *request_id*, and two may choose the same."""
    request_id: str = ""
    identity: str = ""
    """Who asked: the SPIFFE identity of the certificate, or the subject of a token."""
    tenant: str = ""
    address: str = ""
    """Of `refused`: the host that it came from; that of the proxy, behind one."""
    model: str = ""
    backend: str = ""
    """On the app's side, the backend that answered."""
    task: str = ""
    tags: tuple[str, ...] = ()
    """The effective privacy tags, sorted."""
    decision: str = ""
    """The digest of the policy that decided, and the rule: `0123456789abcdef rules[2]`."""
    outcome: str = ""
    """`ok`, `cancelled`, or the name of the error's class; of what a gateway refused, the code that its client got."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    count: int = 0
    """Of `refused`: how many calls like it this record stands for; 0 for one alone, *at_ms* is the last one's."""
    lost: int = 0
    """Of `gap`: how many records are missing."""

    def encode(self, log: str, number: int) -> bytes:
        """The bytes that are hashed: JSON with sorted keys, with the place of the record. Empty fields are left out."""
        values = {key: value for key, value in self._values().items() if value}
        whole = {**values, "event": self.event, "at_ms": self.at_ms, "log": log, "number": number}
        return json.dumps(whole, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")

    @classmethod
    def decode(cls, data: bytes) -> tuple[Self, str, int]:
        """The entry with the log's name and the number in *data*.

        Raises:
            ValueError: it is not one.
        """
        try:
            whole = json.loads(data)
        except RecursionError:
            raise ValueError("nested too deeply for an audit entry") from None
        if not isinstance(whole, dict) or not whole.keys() <= _NAMES | {"log", "number"}:
            raise ValueError("not an audit entry")
        log, number = whole.pop("log", None), whole.pop("number", None)
        if not isinstance(log, str) or type(number) is not int:
            raise ValueError("an audit entry without a place")
        _check_values(whole)
        whole["tags"] = tuple(whole.get("tags", ()))
        try:
            return cls(**whole), log, number
        except TypeError:
            raise ValueError("an audit entry without event or time") from None

    def to_dict(self) -> dict[str, Any]:
        """The fields that are not empty, for JSON."""
        return {"event": self.event, **{key: value for key, value in self._values().items() if value}}

    def _values(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _check_values(whole: dict[str, Any]) -> None:
    for name, kind in _KINDS.items():
        if name in whole and type(whole[name]) is not kind:
            raise ValueError(f"{name} is not of its type")
    if not all(0 <= whole.get(name, 0) <= _MOST[name] for name in _NUMBERS):
        raise ValueError("a number is out of its range")
    if not all(isinstance(tag, str) for tag in whole.get("tags", ())):
        raise ValueError("tags are not texts")


_NAMES: Final = frozenset(each.name for each in fields(AuditEntry))
_NUMBERS: Final = frozenset({"at_ms", "prompt_tokens", "completion_tokens", "count", "lost"})
_LATEST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, the last that dates can show."""
_MOST: Final = dict.fromkeys(_NUMBERS, 2**63 - 1) | {"at_ms": _LATEST_MS}
_KINDS: Final = {name: int if name in _NUMBERS else list if name == "tags" else str for name in _NAMES}
