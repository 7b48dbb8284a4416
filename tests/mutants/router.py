"""The planted faults of the router: the guard, the clearance, the attempts, the breaker, and how they are joined."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS = (
    Mutant(
        "a failed detector changes nothing",
        "privacy/guard.py",
        "            allowed &= {Location.EDGE}",
        "            pass",
    ),
    Mutant("everything is cleared", "privacy/guard.py", "if location not in assessment.allowed:", "if location in ():"),
    Mutant(
        "detectors never run", "privacy/guard.py", "if tag not in tags and name not in uncertain:", "if tag in tags:"
    ),
    Mutant(
        "a failed detector is forgotten", "privacy/guard.py", "            uncertain.append(name)", "            pass"
    ),
    Mutant(
        "detected tags are not carried",
        "privacy/guard.py",
        "request=replace(request, privacy=frozenset(tags))",
        "request=request",
    ),
    Mutant("a finding sets no tag", "privacy/guard.py", "                tags.add(tag)", "                pass"),
    Mutant(
        "only the first text is scanned",
        "privacy/guard.py",
        "for text in request.visible_text() for _",
        "for text in list(request.visible_text())[:1] for _",
    ),
    Mutant(
        "a forged seal passes",
        "clearance.py",
        "if clearance.location is not location or not genuine:",
        "if clearance.location is not location:",
    ),
    Mutant(
        "the place of a clearance is not read",
        "clearance.py",
        "if clearance.location is not location or not genuine:",
        "if not genuine:",
    ),
    Mutant("the seal forgets the tags", "clearance.py", "*sorted(tags), ", ""),
    Mutant("the seal forgets the text", "clearance.py", ", *request.visible_text()]", "]"),
    Mutant("the seal forgets the roles", "clearance.py", '"\\x00", roles, ', '"\\x00", '),
    Mutant(
        "the seal forgets where a text ends",
        "clearance.py",
        '        mac.update(len(data).to_bytes(8, "big"))\n',
        "",
    ),
    Mutant(
        "a request without clearance is taken",
        "clearance.py",
        "if not isinstance(cleared, Cleared):",
        "if cleared == 7:",
    ),
    Mutant("the schema is not looked at", "types.py", "            yield self.output_schema\n", "            pass\n"),
    Mutant("the order is turned round", "attempts.py", "in self._candidates():", "in reversed(self._candidates()):"),
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
        "self._check_deadline()\n                    yield",
        "yield",
    ),
    Mutant("retries are not paid for", "attempts.py", "return late or not self.budget.withdraw()", "return late"),
    Mutant("a retry may come too late", "attempts.py", "return late or not", "return not"),
    Mutant(
        "one round too many",
        "attempts.py",
        "state.attempt_number > self.retries",
        "state.attempt_number > self.retries + 1",
    ),
    Mutant("what the node asks to wait is not waited", "attempts.py", ", *asked, 0.0)", ", 0.0)"),
    Mutant("failures do not reach the breaker", "attempts.py", "if isinstance(error, _BREAKING):", "if error is None:"),
    Mutant(
        "success does not reach the breaker", "attempts.py", "        self.breakers[self.answering].succeeded()\n", ""
    ),
    Mutant("an open breaker is not asked", "attempts.py", "if not self.breakers[name].admit():", "if name is None:"),
    Mutant(
        "a broken stream counts as an answer",
        "attempts.py",
        "while chunk.finish_reason is None:",
        "while chunk.tokens < 0:",
    ),
    Mutant("many probes at once", "breaker.py", "            self._probe = self._clock()\n", ""),
    Mutant("a failed probe closes", "breaker.py", " or self._opened is not None:", ":"),
    Mutant("success does not close", "breaker.py", "self._failures, self._opened, self._probe = 0, None, None", "pass"),
    Mutant("the budget is not filled", "breaker.py", "self._tokens + self._ratio", "self._tokens"),
    Mutant("the budget never empties", "breaker.py", "            self._tokens -= 1.0\n", ""),
    Mutant("uncertain requests are decided as others", "pipeline.py", "if assessment.uncertain:", "if ():"),
    Mutant("every clearance is for the device", "pipeline.py", "backend.location))", "Location.EDGE))"),
    Mutant(
        "an unfinished answer is shown as whole",
        "answer.py",
        "        if reason is None:\n",
        "        if reason == 7:\n",
    ),
)
