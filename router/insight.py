"""The part of a client that sends nothing: what would be decided, under which policy, and what is known by now."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar, Unpack

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import GenerateOptions, Prompt
from hybrid_llm.core.signals import Signals
from hybrid_llm.core.threads import require_asyncio
from hybrid_llm.core.tracebacks import scrubbed
from hybrid_llm.policies import Policy
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.preview import Preview
from hybrid_llm.router.request import Incoming
from hybrid_llm.router.spending.ledger import Entry

T = TypeVar("T")


class Insight(ABC):
    """What a client knows and would do, without any work of a backend."""

    __slots__ = ()

    @property
    @abstractmethod
    def _pipeline(self) -> Pipeline: ...

    @abstractmethod
    def _check_open(self) -> None: ...

    @abstractmethod
    async def _aside(
        self,
        incoming: Incoming,
        call: Callable[[Pipeline], T],
        drop: Callable[[T], object] = lambda _: None,
        *,
        quick: bool = True,
    ) -> T:
        """Do *call* without blocking the event loop, in it only if it may be *quick*; *drop* gets a late result."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._pipeline.policy

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in the order of the configuration."""
        return tuple(self._pipeline.fleet.backends.values())

    def signals(self) -> Signals:
        """The signals that a policy would read now for an empty request; `members` has each endpoint of a backend."""
        return self._pipeline.status().signals

    @scrubbed
    def decide(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
        """Return which backends would be tried, and why; nothing is sent, and no model runs.

        Raises:
            InvalidRequest: an option is out of range, or a privacy tag is unknown.
            DeadlineExceeded: the deadline passed.
        """
        incoming = Incoming(prompt=prompt, options=options)
        self._check_open()
        return self._pipeline.decide(incoming)

    @scrubbed
    async def adecide(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
        """Do as `decide` does, without blocking the event loop."""
        require_asyncio()
        incoming = Incoming(prompt=prompt, options=options)
        return await self._aside(incoming, lambda pipeline: pipeline.decide(incoming))

    @scrubbed
    def count_tokens(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> int:
        """Tokens of *prompt* and its tools: counted by the model on this device where there is one, else estimated.

        Raises:
            InvalidRequest: an option is out of range.
            DeadlineExceeded: the deadline passed.
        """
        incoming = Incoming(prompt=prompt, options=options)
        self._check_open()
        return self._pipeline.count_tokens(incoming)

    @scrubbed
    async def acount_tokens(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> int:
        """Do as `count_tokens` does, without blocking the event loop."""
        require_asyncio()
        incoming = Incoming(prompt=prompt, options=options)
        return await self._aside(incoming, lambda pipeline: pipeline.count_tokens(incoming))

    @scrubbed
    def preview(self, prompt: Prompt, policy: Policy | None = None, **options: Unpack[GenerateOptions]) -> Preview:
        """Do as `decide` does under *policy*, which need not be in force, and return what the cloud would see, too.

        Nothing is sent, and the policy in force stays in force. Raises as `decide` does.
        """
        incoming = Incoming(prompt=prompt, options=options)
        self._check_open()
        return self._pipeline.preview(incoming, policy)

    @scrubbed
    async def apreview(
        self, prompt: Prompt, policy: Policy | None = None, **options: Unpack[GenerateOptions]
    ) -> Preview:
        """Do as `preview` does, without blocking the event loop."""
        require_asyncio()
        incoming = Incoming(prompt=prompt, options=options)
        return await self._aside(incoming, lambda pipeline: pipeline.preview(incoming, policy), quick=policy is None)

    @property
    def currency(self) -> str:
        """The currency of prices and budgets; empty if neither names one."""
        return self._pipeline.fleet.spending.currency or self.policy.objectives.currency or ""

    def parse_policy(self, text: str) -> Policy:
        """The policy in *text*, checked for the backends, detectors and prices of this client; it does not take effect.

        Raises:
            PolicyError: it is not valid; `.errors` has everything that is wrong, with line and column.
            ConfigError: it counts in another currency than the prices.
        """
        return self._pipeline.parse_policy(text)

    def spending(self) -> list[Entry]:
        """What each tenant has spent and reserved, the latest day first. A ledger in a file is read.

        Raises:
            HybridLLMError: the ledger cannot be read.
        """
        return self._pipeline.fleet.spending.entries()
