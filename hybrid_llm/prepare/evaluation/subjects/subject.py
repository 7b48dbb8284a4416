"""The interface of what is evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.prepare.evaluation.answers import Answer
from hybrid_llm.prepare.evaluation.decoders import Scorer


class Unsupported(ConfigError):
    """A subject cannot do a kind of task at all; the report has the reason in place of figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a subject is, for the report and for policies that read its quality.

    Attributes:
        what: in words.
        backend: the name of the one backend that answers; empty where a policy chooses.
        digests: backend -> what distinguishes its model from every other one.
        policy: the digest of the policy, where one chooses.
    """

    what: str
    backend: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    policy: str = ""


class Subject(Protocol):
    """Something that answers. Errors of single items are those of `generate`."""

    @property
    def name(self) -> str:
        """Its name in the report."""

    @property
    def about(self) -> About:
        """What it is."""

    def generate(self, messages: Sequence[Message], options: GenerateOptions) -> Answer:
        """Answer a conversation; `Unsupported` if it classifies only."""

    def classify(self, text: str, labels: Sequence[str], options: GenerateOptions) -> Answer:
        """Give a text one of *labels*; `Unsupported` if it knows others."""

    def scorer(self) -> Scorer:
        """Reads probabilities of texts; `Unsupported` if it is no decoder in this process."""

    def close(self) -> None:
        """Release everything."""
