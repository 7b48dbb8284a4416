"""Planted faults of hedges, continuations and of the tracebacks that an error keeps."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_argument, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_ATTEMPTS = "hybrid_llm.router.execution.attempts"
_ALLOWANCE = "hybrid_llm.router.execution.allowance"
_HEALTH = "hybrid_llm.core.health"
_HEDGING = "hybrid_llm.router.execution.hedging"
_TRACEBACKS = "hybrid_llm.core.tracebacks"

MUTANTS = (
    Mutant(
        "no call is hedged",
        f"{_ATTEMPTS}:Attempts._hedge_delay",
        swap("self.patience(self.answering) if may else None", "None"),
    ),
    Mutant("a hedge is free", f"{_ATTEMPTS}:Attempts._start_hedge", always("self.budget.withdraw()")),
    Mutant(
        "a hedge without budget loses its turn",
        f"{_ATTEMPTS}:Attempts._start_hedge",
        swap(
            (
                "if self.budget.withdraw():\n"
                "    others = (name for name in waiting if name != self.answering)\n"
                "    name = next(others, waiting[0]) if race.running > 1 else waiting[0]\n"
                "    waiting.remove(name)\n"
                "    self._start(race, name, paid=True)"
            ),
            (
                "if not self.budget.withdraw():\n"
                "    waiting.popleft()\n"
                "else:\n"
                "    others = (name for name in waiting if name != self.answering)\n"
                "    name = next(others, waiting[0]) if race.running > 1 else waiting[0]\n"
                "    waiting.remove(name)\n"
                "    self._start(race, name, paid=True)"
            ),
        ),
    ),
    Mutant("a hedge pays twice", f"{_ATTEMPTS}:Attempts._start_hedge", drop_argument("_start", "paid")),
    Mutant(
        "a hedge keeps its turn and is called twice", f"{_ATTEMPTS}:Attempts._start_hedge", drop("waiting.remove(name)")
    ),
    Mutant(
        "hedges go to the same backend only",
        f"{_ATTEMPTS}:Attempts._start_hedge",
        swap("next(others, waiting[0]) if race.running > 1 else waiting[0]", "waiting[0]"),
    ),
    Mutant("hedges without limit", f"{_ATTEMPTS}:Attempts._hedge_delay", drop_operand("race.running <= _MOST_HEDGES")),
    Mutant(
        "one failed attempt ends the race",
        f"{_ATTEMPTS}:Attempts._round",
        swap(
            ("if not _may_go_elsewhere(attempt.error):\n    raise self._final(attempt.error)"),
            "raise self._final(attempt.error)",
        ),
    ),
    Mutant(
        "a fatal error of one attempt is ignored",
        f"{_ATTEMPTS}:Attempts._round",
        drop("if not _may_go_elsewhere(attempt.error): ..."),
    ),
    Mutant("losing attempts are not cancelled", f"{_HEDGING}:TaskRace.stop", drop("task.cancel()")),
    Mutant("the losers' streams are not closed", f"{_HEDGING}:TaskRace.stop", drop("await attempt.stream.aclose()")),
    Mutant(
        "a loser leaves its breaker half open",
        f"{_ATTEMPTS}:Attempts._round",
        swap(
            "self._hung_or_abandoned(attempt, is_late=self.metadata.remaining(self.clock()) <= 0.0)",
            "bool(self.metadata.remaining(self.clock()) <= 0.0)",
        ),
    ),
    Mutant("continue_streams is ignored", f"{_ATTEMPTS}:Attempts._continue", drop_operand("not self.continue_streams")),
    Mutant(
        "an answer with a fatal error is continued",
        f"{_ATTEMPTS}:Attempts._continue",
        drop_operand("not _may_go_elsewhere(error)"),
    ),
    Mutant(
        "a continuation starts from nothing",
        f"{_ATTEMPTS}:Attempts._partial_answer",
        swap("self._parts.partial(self._tokens)", "PartialAnswer(text='', tokens=0)"),
    ),
    Mutant(
        "the text before a continuation is lost",
        f"{_ATTEMPTS}:Attempts._take",
        swap("self._parts.add(chunk)", "chunk.text"),
    ),
    Mutant(
        "tokens of text that is held back count as delivered",
        f"{_ATTEMPTS}:Attempts._continue",
        swap("self._held = 0", "self._tokens += self._held"),
    ),
    Mutant(
        "text held back before a continuation counts after it",
        f"{_ATTEMPTS}:Attempts._continue",
        drop("self._held = 0"),
    ),
    Mutant(
        "a continuation is not recorded", f"{_ATTEMPTS}:Attempts._continue", swap("self.continuations.append", "str")
    ),
    Mutant(
        "the tokens before a continuation are not counted",
        f"{_ATTEMPTS}:Attempts._completed",
        swap("self.continuations[-1].tokens + usage.completion_tokens", "usage.completion_tokens"),
    ),
    Mutant(
        "the backend that broke off is called first",
        f"{_ATTEMPTS}:Attempts._continue",
        swap("sorted(self._candidates(), key=is_spent)", "self._candidates()"),
    ),
    Mutant(
        "an answer of maximum length is continued",
        f"{_ATTEMPTS}:Attempts.run",
        swap(
            "None if self._is_full() else await self._continue(attempt, broken)",
            "await self._continue(attempt, broken)",
        ),
    ),
    Mutant(
        "an answer that may not be continued is complete",
        f"{_ATTEMPTS}:Attempts._is_full",
        drop_operand("self.continue_streams"),
    ),
    Mutant(
        "continuations are free",
        f"{_ALLOWANCE}:Allowance.allows",
        always("self.budget.pays_together(broken, now, self._price)"),
    ),
    Mutant(
        "answers that break off together pay one by one",
        f"{_HEALTH}:RetryBudget.pays_together",
        swap("began < self._paid and now - self._paid <= _TOGETHER_S", "False"),
    ),
    Mutant(
        "one payment is for ever",
        f"{_HEALTH}:RetryBudget.pays_together",
        drop_operand("now - self._paid <= _TOGETHER_S"),
    ),
    Mutant(
        "calls that were lost together pay one by one",
        f"{_ATTEMPTS}:Attempts._failed",
        never("attempt.began < self.breakers[attempt.name].lost_at"),
    ),
    Mutant(
        "a call that brings the answer forward counts against retries",
        f"{_ALLOWANCE}:Allowance.note_progress",
        drop("self._stalled.clear()"),
    ),
    Mutant(
        "a call that brings the answer no further is no retry",
        f"{_ATTEMPTS}:Attempts._continue",
        swap(
            "(delivered := (self._tokens - (self.continuations[-1].tokens if self.continuations else 0))) > 0",
            "(delivered := (self._tokens - (self.continuations[-1].tokens if self.continuations else 0))) >= 0",
        ),
    ),
    Mutant(
        "a call that brings the answer a little forward pays for the next one",
        f"{_ALLOWANCE}:Allowance.note_progress",
        swap("max(0.0, 1.0 - delivered / again)", "0.0"),
    ),
    Mutant(
        "the dearest of the answers that break off together pays twice",
        f"{_HEALTH}:RetryBudget.pays_together",
        swap("max(0.0, price - paid)", "price"),
    ),
    Mutant("no retries are some", f"{_ALLOWANCE}:Allowance.note_progress", always("self.retries")),
    Mutant("an error keeps the texts of its request in its frames", f"{_TRACEBACKS}:_cleared", drop("frame.clear()")),
    Mutant("the app's own frames are emptied", f"{_TRACEBACKS}:_clear", swap("inside or _is_own(frame)", "True")),
    Mutant(
        "the causes of an error keep their frames",
        f"{_TRACEBACKS}:scrub_traceback",
        drop("left += [one.__cause__, one.__context__]"),
    ),
    Mutant("a handled error keeps its traceback", f"{_ATTEMPTS}:Attempts.run", drop("broken.__traceback__ = None")),
    Mutant(
        "the error of a losing attempt keeps its frames",
        f"{_ATTEMPTS}:Attempts._round",
        drop("scrub_traceback(attempt.error)"),
    ),
    Mutant(
        "the error of a failed attempt keeps its frames",
        f"{_ATTEMPTS}:Attempts._failed",
        drop("scrub_traceback(error)"),
    ),
    Mutant(
        "the final error keeps a reference to itself",
        f"{_ATTEMPTS}:Attempts._final",
        swap("other is not error", "other"),
    ),
)
