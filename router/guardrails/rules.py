"""The guardrails of one client: where each is applied, and what happens if it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from hybrid_llm.core import looks
from hybrid_llm.core.errors import ConfigError, ContentRefused, DeadlineExceeded
from hybrid_llm.core.protocols import Direction, Guardrail, Verdict
from hybrid_llm.core.request import Request, RequestMetadata
from hybrid_llm.core.threads import Aside, in_thread
from hybrid_llm.core.tracebacks import is_fault
from hybrid_llm.router.execution.answer import Screen
from hybrid_llm.router.guardrails.answers import AnswerScreen

_log: Final = logging.getLogger("hybrid_llm.guardrails")
_LONGEST_WINDOW: Final = 100_000
BOTH: Final = frozenset(Direction)
_ASKED: Final = frozenset({"user", "tool"})
"""Whose turns are judged: instructions are the app's own, and answers were judged when they were given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailRule:
    """A *guardrail*, the directions in which it judges, and whether what it fails to judge is refused or allowed."""

    guardrail: Guardrail
    where: frozenset[Direction] = BOTH
    on_error: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        window = getattr(self.guardrail, "window", None)
        if not isinstance(window, int) or not 1 <= window <= _LONGEST_WINDOW:
            raise ConfigError(f"the window of a guardrail is a number of characters from 1 to {_LONGEST_WINDOW:,}")
        if not isinstance(getattr(self.guardrail, "name", None), str) or not callable(self.guardrail.check):
            raise ConfigError("a guardrail has a name, a window, and a method `check`")

    @property
    def is_quick(self) -> bool:
        """Whether an event loop may wait for it: the guardrail says so by an attribute `quick` that is True."""
        return getattr(self.guardrail, "quick", False) is True

    def refusal(self, text: str, direction: Direction, metadata: RequestMetadata) -> ContentRefused | None:
        """The error with which *text* is refused; None if it is allowed.

        Raises:
            DeadlineExceeded: the guardrail did not return in time.
        """
        name, verdict = self.guardrail.name, None
        try:
            verdict = self._verdict(text, direction, metadata)
            fault = "" if isinstance(verdict, Verdict) else f"a {type(verdict).__name__} for a verdict"
        except DeadlineExceeded:
            raise
        except BaseException as error:
            if not is_fault(error):
                raise
            fault = type(error).__name__  # not its text, which may hold the one that is judged
        if fault or verdict is None:
            _log.warning("the guardrail %s failed with %s: %s", name, fault, self.on_error)
            verdict = Verdict.refuse("unjudged", "failed") if self.on_error == "refuse" else Verdict()
        if not verdict.refuses:
            return None
        what = "the request" if direction is Direction.INPUT else "the answer"
        message = f"the guardrail {name} refuses {what}: {verdict.category}"
        return ContentRefused(
            f"{message} ({verdict.reason})" if verdict.reason else message,
            guardrail=name,
            direction=direction.value,
            category=verdict.category,
            reason=verdict.reason,
        )

    def _verdict(self, text: str, direction: Direction, metadata: RequestMetadata) -> Verdict:
        if self.is_quick:
            looking = looks.begin(metadata.check_deadline)
            try:
                return self.guardrail.check(text, direction, metadata)
            finally:
                looks.end(looking)
        work = in_thread("hybrid-llm-guardrail", lambda: self.guardrail.check(text, direction, metadata))
        try:
            return work.result(max(0.0, metadata.remaining()))
        except TimeoutError:
            if work.done():  # its own
                raise
        raise metadata.late(phase="the guardrails")


class Guardrails:
    """Judges requests before they are sent, and makes what judges their answers."""

    def __init__(self, guardrails: Iterable[Guardrail | GuardrailRule]) -> None:
        rules = [each if isinstance(each, GuardrailRule) else GuardrailRule(guardrail=each) for each in guardrails]
        self._input = tuple(rule for rule in rules if Direction.INPUT in rule.where)
        self._output = tuple(rule for rule in rules if Direction.OUTPUT in rule.where)
        self.is_quick: Final = all(rule.is_quick for rule in self._input)
        """Whether an event loop may wait until a short request is judged."""

    def check(self, request: Request, metadata: RequestMetadata) -> None:
        """Judge what the users and tools of *request* say.

        Raises:
            ContentRefused: a guardrail refuses it.
            DeadlineExceeded: one did not return in time.
        """
        for message in request.messages if self._input else ():
            if message.role in _ASKED and message.content:
                refusal = first_refusal(self._input, message.content, Direction.INPUT, metadata)
                if refusal is not None:
                    raise refusal

    def screen(self, request: Request, metadata: RequestMetadata, aside: Aside) -> Screen | None:
        """What judges an answer to *request*, with *aside* for what takes long; None if nothing does."""
        if not self._output:
            return None
        return AnswerScreen(
            window=max(rule.guardrail.window for rule in self._output),
            refusal=lambda text: first_refusal(self._output, text, Direction.OUTPUT, metadata),
            aside=None if all(rule.is_quick for rule in self._output) else aside,
            with_tokens=request.logprobs is not None,
        ).chunks


def first_refusal(
    rules: Iterable[GuardrailRule], text: str, direction: Direction, metadata: RequestMetadata
) -> ContentRefused | None:
    """The error of the first of *rules* that refuses *text*."""
    return next((no for rule in rules if (no := rule.refusal(text, direction, metadata)) is not None), None)
