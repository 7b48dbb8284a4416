"""A whole answer that is cached: as bytes, with the name of its request; and what a cache of answers is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Protocol, runtime_checkable

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import FinishReason, Usage
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.core.request import Location, Request, Sampling
from hybrid_llm.core.savings import Savings

_BLOCK: Final = 256
_PLAIN: Final = ("text", "finish_reason", "backend", "model", "policy", "took_ms")
_SAMPLING: Final = tuple(f.name for f in fields(Sampling) if f.name != "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """A complete answer and what gave it. Its text never shows in `repr`."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    backend: str
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    model: str = ""
    """The model of the backend, and its version where that is known: under another one, the answer is not replayed."""
    policy: str = ""
    """The digest of the policy under which it was given: under another one, the answer is not replayed."""
    took_ms: float = 0.0
    """How long the backend took for it, ms."""


class AnswerCache(Protocol):
    """Stores answers at *location*. Both methods require a clearance for it and for `Purpose.CACHE`."""

    @property
    def location(self) -> Location:
        """Where the answers are stored, as privacy tags see it."""

    def get(self, cleared: Cleared) -> CachedAnswer | None:
        """The cached answer to the same request; PrivacyViolation without a clearance."""

    def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
        """Store *answer*; PrivacyViolation without a clearance."""

    def close(self) -> None:
        """Release what it holds. Answers in memory are dropped."""


@runtime_checkable
class SavingsBook(Protocol):
    """A cache that stores what it has saved, beyond the life of a client."""

    def book(self, savings: Savings, currency: str = "") -> None:
        """Add *savings*, of which money is in *currency*; it must be fast, and may be stored later."""


def entry_name(request: Request, key: bytes) -> bytes:
    """32 bytes that distinguish requests: texts, roles, tags, limits, options, tenant; not the id, nor the time.

    A keyed BLAKE2b (RFC 7693): with a plain hash, whoever reads the names could try texts from a dictionary.
    """
    mac = hashlib.blake2b(key=key, digest_size=32)
    sampling = [repr(getattr(request.sampling, name)) for name in _SAMPLING]
    names = [str(len(request.privacy)), request.task, repr(request.tenant), str(request.max_tokens)]
    names.append(repr(request.logprobs))
    for part in (*sampling, *names, request.shape(), *sorted(request.privacy), *request.visible_text()):
        data = part.encode("utf-8", "surrogatepass")
        mac.update(len(data).to_bytes(8, "big"))
        mac.update(data)
    return mac.digest()


def encoded(answer: CachedAnswer) -> bytes:
    """*answer* as JSON, padded with spaces to a multiple of 256 bytes: their number says little about it."""
    document: dict[str, Any] = {name: getattr(answer, name) for name in _PLAIN}
    document["usage"] = asdict(answer.usage)
    document["logprobs"] = [each.to_dict() for each in answer.logprobs]
    data = json.dumps(document, separators=(",", ":")).encode("ascii")
    return data + b" " * (-len(data) % _BLOCK)


def decoded(data: bytes) -> CachedAnswer | None:
    """The answer that was encoded; None if *data* is that of another version."""
    try:
        document: dict[str, Any] = json.loads(data)
        parts = {
            "finish_reason": FinishReason(document["finish_reason"]),
            "usage": Usage(**document["usage"]),
            "logprobs": tuple(map(_token, document["logprobs"])),
        }
        return CachedAnswer(**document | parts)
    except (ValueError, KeyError, TypeError):
        return None


def _token(plain: dict[str, Any]) -> TokenLogprob:
    top = tuple(Alternative(**_own(each)) for each in plain["top_logprobs"])
    return TokenLogprob(**_own(plain), top=top)


def _own(plain: dict[str, Any]) -> dict[str, Any]:
    return {"token": plain["token"], "logprob": plain["logprob"], "bytes": bytes(plain["bytes"])}
