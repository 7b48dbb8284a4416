"""Log-probabilities of the tokens of an answer. They are pieces of its text, so none shows in a `repr` or a log."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A token that the model might have chosen."""

    token: str = field(repr=False)
    """Its text; U+FFFD where its bytes are no whole characters; the name of a control token."""
    logprob: float = field(repr=False)
    """Natural logarithm of its probability."""
    bytes: builtins.bytes = field(repr=False)
    """Its exact bytes, UTF-8 together with those around it; empty for a control token."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in the shape of the OpenAI API: the bytes are a list of numbers."""
        return {"token": self.token, "logprob": self.logprob, "bytes": list(self.bytes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob(Alternative):
    """A token of the text of an answer, and the likeliest ones in its place.

    The probabilities are the model's own: the softmax of its logits, before penalty, temperature, filters and grammar.
    """

    top: tuple[Alternative, ...] = field(default=(), repr=False)
    """The likeliest tokens, in order, as many as were asked for; the chosen one need not be among them."""

    def to_dict(self) -> dict[str, Any]:
        """As plain data, in the shape of the OpenAI API."""
        plain = {"token": self.token, "logprob": self.logprob, "bytes": list(self.bytes)}
        return {**plain, "top_logprobs": [each.to_dict() for each in self.top]}
