"""A cached answer as bytes and back. Their length is a multiple of 256, so that it says little about the answer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from hybrid_llm.core.generation import FinishReason, Usage
from hybrid_llm.core.logprobs import Alternative, TokenLogprob
from hybrid_llm.router.caching.answers import CachedAnswer

_BLOCK: Final = 256
_PLAIN: Final = ("text", "finish_reason", "backend", "model", "policy", "took_ms")


def encoded(answer: CachedAnswer) -> bytes:
    """*answer* as JSON, padded with spaces."""
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
