"""The limits and defaults of a request: a call, `hybrid.yaml` and a policy are all checked against these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hybrid_llm.core.checked import Checked
from hybrid_llm.core.fields import ListOf, Number, Text, Whole, duration, key

MAX_TOKENS: Final = Whole(1, 1_000_000)
DEADLINE_S: Final = Number(0.001, 86_400.0)
SAMPLING: Final[Mapping[str, Whole | Number]] = {
    "temperature": Number(0.0, 100.0),
    "top_p": Number(1e-6, 1.0),
    "top_k": Whole(0, 1_000_000),
    "min_p": Number(0.0, 1.0),
    "repetition_penalty": Number(0.01, 100.0),
    "presence_penalty": Number(-2.0, 2.0),
    "frequency_penalty": Number(-2.0, 2.0),
    "seed": Whole(0, 2**63 - 1),
}
"""The settings of `Sampling` and their ranges; a seed may also be None."""
PENALTIES: Final = ("repetition_penalty", "presence_penalty", "frequency_penalty")
"""Those that apply to a greedy choice too."""
RECOMMENDED: Final = ("temperature", "top_p", "top_k", "min_p", *PENALTIES)
"""Those that a configuration may set for all calls, and that a model may recommend."""
LOGPROBS: Final = Whole(0, 20)
"""Alternatives for each token of an answer."""
PRIORITY: Final = Whole(0, 9)
"""Each step doubles the share of a node; 0 is what a request has that asks for none."""
STOP_TEXTS: Final = 16
STOP_CHARACTERS: Final = 256
NAME_CHARACTERS: Final = 128
DEFAULT_MAX_TOKENS: Final = 256
DEFAULT_DEADLINE_S: Final = 60.0
"""The deadline where neither the call nor `hybrid.yaml` nor the policy has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults(Checked):
    """What a request gets where the call sets nothing."""

    max_tokens: int = key(MAX_TOKENS, "Maximum tokens of the answer.", default=DEFAULT_MAX_TOKENS)
    deadline: float | None = key(DEADLINE_S, "Deadline in seconds; else that of the policy, else 60.", default=None)
    privacy: frozenset[str] = key(
        ListOf(Text("a tag"), into=frozenset), "Privacy tags that every request carries.", default=frozenset()
    )
    temperature: float | None = key(
        SAMPLING["temperature"], "0 is greedy; unset, what the model recommends.", default=None
    )
    top_p: float | None = key(SAMPLING["top_p"], "The same for the nucleus, 1 for all.", default=None)
    top_k: int | None = key(SAMPLING["top_k"], "The same for the likeliest tokens, 0 for all.", default=None)
    min_p: float | None = key(SAMPLING["min_p"], "The same for tokens by the likeliest one, 0 for all.", default=None)
    repetition_penalty: float | None = key(
        SAMPLING["repetition_penalty"], "The same for tokens that were seen, 1 for none.", default=None
    )
    presence_penalty: float | None = key(
        SAMPLING["presence_penalty"], "The same for tokens that the answer has, 0 for none.", default=None
    )
    frequency_penalty: float | None = key(
        SAMPLING["frequency_penalty"], "The same for each time that the answer has a token, 0 for none.", default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits(Checked):
    """How many sessions hold values behind pseudonyms, and for how long.

    A session that is dropped at a limit stays on the device until the app forgets it.
    """

    capacity: int = key(
        Whole(1, 1_000_000), "Sessions at once; one more drops the one that was used longest ago.", default=1024
    )
    idle_s: float = key(
        duration(), "Time since its last request after which a session is dropped.", name="idle", default=3600.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits(Checked):
    """How large a request may be; a larger one is refused with `InvalidRequest` before any work."""

    messages: int = key(Whole(1, 1_000_000), "Messages of a prompt.", default=10_000)
    tools: int = key(Whole(1, 10_000), "Tools of a request.", default=128)
    tool_bytes: int = key(
        Whole(1, 1_000_000_000), "Bytes of names, descriptions and schemas of the tools together.", default=512 << 10
    )
    bytes: int = key(
        Whole(1, 1_000_000_000), "Bytes of text, as UTF-8, of prompt, tools and stop texts together.", default=4 << 20
    )
