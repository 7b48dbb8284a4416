"""The planted faults of the router: the attempts, the breaker, the answer. Those of privacy have lists of their own."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS = (
    Mutant(
        "the order is turned round",
        "attempts.py",
        "await self._settle(self._candidates)",
        "await self._settle(lambda: self._candidates()[::-1])",
    ),
    Mutant(
        "those who cannot recover are asked again",
        "attempts.py",
        "if name not in self.failures or self.failures[name].retryable",
        "if name not in self.failures or True",
    ),
    Mutant(
        "a request at fault is sent on",
        "attempts.py",
        "        return error.reason in _ELSEWHERE",
        "        return True",
    ),
    Mutant(
        "a deadline that is over is ignored",
        "attempts.py",
        "return not isinstance(error, DeadlineExceeded)",
        "return True",
    ),
    Mutant(
        "the deadline is not looked at between tokens",
        "attempts.py",
        "                        self._check_deadline()\n                        chunk = await",
        "                        chunk = await",
    ),
    Mutant(
        "retries are not paid for",
        "attempts.py",
        "not (paid or calls < free or self.budget.withdraw())",
        "not (paid or calls < free or True)",
    ),
    Mutant(
        "a retry may come too late",
        "attempts.py",
        "return state.upcoming_sleep >= self.metadata.remaining(self.clock()) or not",
        "return not",
    ),
    Mutant(
        "a backend is called without end",
        "attempts.py",
        "elif calls >= (self.retries + 1) * free or",
        "elif calls < 0 or",
    ),
    Mutant("what the node asks to wait is not waited", "attempts.py", ", *asked, 0.0)", ", 0.0)"),
    Mutant(
        "failures do not reach the breaker",
        "attempts.py",
        "if isinstance(error, _BREAKING) and",
        "if error is None and",
    ),
    Mutant("success does not reach the breaker", "attempts.py", "        self.breakers[lane.name].succeeded()\n", ""),
    Mutant("an open breaker is not asked", "attempts.py", "if not self.breakers[name].admit():", "if name is None:"),
    Mutant(
        "a broken stream counts as an answer",
        "attempts.py",
        "while chunk.finish_reason is None:",
        "while chunk.tokens < 0:",
    ),
    Mutant(
        "a backend that hangs is blamed for nothing",
        "attempts.py",
        "if is_late and lane.first is None and fair:",
        "if lane is None:",
    ),
    Mutant(
        "one that was asked too late is blamed",
        "attempts.py",
        "fair = self.clock() - lane.began >= self.metadata.deadline / 2",
        "fair = True",
    ),
    Mutant(
        "a probe that tells nothing stays the probe",
        "breaker.py",
        "            self._probe = None\n\n",
        "            pass\n\n",
    ),
    Mutant("many probes at once", "breaker.py", "            self._probe = self._clock()\n", ""),
    Mutant("a failed probe closes", "breaker.py", " or self._opened is not None:", ":"),
    Mutant("success does not close", "breaker.py", "self._failures, self._opened, self._probe = 0, None, None", "pass"),
    Mutant(
        "the breaker opens for what a backend says itself",
        "attempts.py",
        "        if self.is_ready(name):\n",
        "        if True:\n",
    ),
    Mutant("the budget is not filled", "breaker.py", "self._tokens + self._ratio", "self._tokens"),
    Mutant("the budget never empties", "breaker.py", "            self._tokens -= 1.0\n", ""),
    Mutant(
        "an unfinished answer is shown as whole",
        "answer.py",
        "        if reason is None:\n",
        "        if reason == 7:\n",
    ),
)
