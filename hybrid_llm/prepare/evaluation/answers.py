"""One item of a task, and what a subject answered to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from hybrid_llm.core.request import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item: what is asked, and what is expected. No text of it shows in `repr`.

    Attributes:
        messages: the prompt of `generate`.
        text: what is classified or scored; of `choose` the context.
        references: the valid answers of `generate`; of `classify` the label.
        choices: of `choose`.
        gold: the number of the right choice.
    """

    messages: tuple[Message, ...] = field(default=(), repr=False)
    text: str = field(default="", repr=False)
    references: tuple[str, ...] = field(default=(), repr=False)
    choices: tuple[str, ...] = field(default=(), repr=False)
    gold: int = 0

    @property
    def digest(self) -> str:
        """What distinguishes the item."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Milliseconds to the first token and to the end, and the tokens of the answer."""

    ttft_ms: float
    total_ms: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a subject answered to an item.

    Attributes:
        error: the name of the error class where there is no answer.
        text: of `generate`; of `classify` and `choose` the label or choice.
        score: the probability of that label.
        values: what a metric reads beside: of `perplexity` nats, tokens and bytes, of `choose` the choice by length.
        backend: that answered last.
        cloud: whether the request left the device.
        cost: in the currency of the configuration.
    """

    error: str = ""
    text: str = field(default="", repr=False)
    score: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    timing: Timing | None = None
    backend: str = ""
    cloud: bool = False
    cost: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the file of answers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Answer:
        """The answer that `to_dict` wrote; TypeError if it is none."""
        timing = plain.get("timing")
        return cls(**{**plain, "timing": None if timing is None else Timing(**timing)})
