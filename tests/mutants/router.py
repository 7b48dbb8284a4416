"""Planted faults of the router: attempts, breaker, retry budget, answer. Privacy has lists of its own."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_ATTEMPTS = "hybrid_llm.router.execution.attempts"
_ALLOWANCE = "hybrid_llm.router.execution.allowance"
_HEALTH = "hybrid_llm.core.health"
_ANSWER = "hybrid_llm.router.execution.answer"

MUTANTS = (
    Mutant(
        "the order is reversed",
        f"{_ATTEMPTS}:Attempts.run",
        swap("self._candidates", "lambda: self._candidates()[::-1]"),
    ),
    Mutant(
        "backends with a permanent failure are retried",
        f"{_ATTEMPTS}:Attempts._candidates",
        always("self.failures[name].retryable"),
    ),
    Mutant("a rejected request falls back", f"{_ATTEMPTS}:_may_go_elsewhere", always("error.reason in _UNFIT")),
    Mutant(
        "an expired deadline is ignored",
        f"{_ATTEMPTS}:_may_go_elsewhere",
        always("not isinstance(error, DeadlineExceeded)"),
    ),
    Mutant("the deadline is not checked between tokens", f"{_ATTEMPTS}:Attempts.run", drop("self._check_deadline()")),
    Mutant("retries are free", f"{_ALLOWANCE}:Allowance.allows", always("self.budget.withdraw()")),
    Mutant(
        "a retry may start after the deadline",
        f"{_ATTEMPTS}:Attempts._gives_up",
        drop_operand("state.upcoming_sleep >= self.metadata.remaining(self.clock())"),
    ),
    Mutant(
        "a backend is retried without limit",
        f"{_ALLOWANCE}:Allowance.allows",
        never("self._stalled[name] >= (self.retries + 1) * self.copies(name)"),
    ),
    Mutant("retry_after is ignored", f"{_ATTEMPTS}:Attempts._pause", swap("e.retry_after or 0.0", "0.0")),
    Mutant(
        "failures do not reach the breaker",
        f"{_ATTEMPTS}:Attempts._failed",
        swap("isinstance(error, _FAILURES)", "error is None"),
    ),
    Mutant(
        "success does not reach the breaker",
        f"{_ATTEMPTS}:Attempts._succeeded",
        drop("self.breakers[attempt.name].succeeded()"),
    ),
    Mutant(
        "an open breaker is not asked",
        f"{_ATTEMPTS}:Attempts._start",
        swap("not self._admits(name)", "name is None"),
    ),
    Mutant(
        "a broken stream counts as an answer",
        f"{_ATTEMPTS}:Attempts.run",
        swap("chunk.finish_reason is None", "chunk.tokens < 0"),
    ),
    Mutant(
        "a backend that hangs is no failure",
        f"{_ATTEMPTS}:Attempts._hung_or_abandoned",
        swap("is_late and attempt.first is None and had_time", "attempt is None"),
    ),
    Mutant(
        "a backend called too late counts as failed",
        f"{_ATTEMPTS}:Attempts._hung_or_abandoned",
        always("self.clock() - attempt.began >= self.metadata.deadline / 2"),
    ),
    Mutant(
        "a last resort is called although another backend is left",
        f"{_ATTEMPTS}:Attempts._admits",
        swap("not any(self.breakers[other].admits for other in others)", "True"),
    ),
    Mutant(
        "a last resort need not serve",
        f"{_ATTEMPTS}:Attempts._admits",
        swap(
            "self.breakers[name].serves and not any(self.breakers[other].admits for other in others)",
            "not any(self.breakers[other].admits for other in others)",
        ),
    ),
    Mutant("an abandoned trial stays the trial", f"{_HEALTH}:HealthProbe.abandoned", drop("self._trial = None")),
    Mutant("several trials at once", f"{_HEALTH}:HealthProbe.admit", drop("self._trial = self._clock()")),
    Mutant(
        "a failed trial does not open the breaker again",
        f"{_HEALTH}:HealthProbe.failed",
        drop_operand("self._opened is not None"),
    ),
    Mutant(
        "success does not close the breaker",
        f"{_HEALTH}:HealthProbe._reset",
        drop("self._failures, self._opened, self._trial, self._hold, self._cancelled = (0, None, None, 0.0, False)"),
    ),
    Mutant(
        "the breaker counts what a backend reports itself",
        f"{_ATTEMPTS}:Attempts._count_failure",
        always("self.is_ready(name)"),
    ),
    Mutant("the budget is not filled", f"{_HEALTH}:RetryBudget.deposit", swap("self.left + self._ratio", "self.left")),
    Mutant("the budget never empties", f"{_HEALTH}:RetryBudget._take", drop("self.left -= price")),
    Mutant("an unfinished answer is complete", f"{_ANSWER}:Answer._complete", swap("reason is None", "reason == 7")),
)
