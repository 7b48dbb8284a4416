"""The planted faults of hedges and continuations, and of the race that hedges run in."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_ATTEMPTS, _RACE, _FRAMES = "attempts.py", "race.py", "frames.py"
_ONLY_THEN = "                    if not _may_go_elsewhere(lane.error):\n"

MUTANTS = (
    Mutant("nobody gets a hedge", _ATTEMPTS, "return self.patience(self.answering) if may else None", "return None"),
    Mutant(
        "a hedge is not paid for",
        _ATTEMPTS,
        "        if self.budget.withdraw():\n            others",
        "        if True:\n            others",
    ),
    Mutant(
        "a hedge that is not paid for has no turn",
        _ATTEMPTS,
        "        if self.budget.withdraw():\n            others",
        "        if not self.budget.withdraw():\n            waiting.popleft()\n        else:\n            others",
    ),
    Mutant("a hedge pays twice", _ATTEMPTS, "self._start(race, name, paid=True)", "self._start(race, name)"),
    Mutant("a hedge keeps its turn and is called twice", _ATTEMPTS, "            waiting.remove(name)\n", ""),
    Mutant(
        "rivals are nodes of the same backend only",
        _ATTEMPTS,
        "next(others, waiting[0]) if race.running > 1 else waiting[0]",
        "waiting[0]",
    ),
    Mutant("rivals without number", _ATTEMPTS, "race.running <= _MOST_RIVALS and ", ""),
    Mutant(
        "one lane that failed ends the race",
        _ATTEMPTS,
        f"{_ONLY_THEN}                        raise self._final(lane.error)\n            raise",
        "                    raise self._final(lane.error)\n            raise",
    ),
    Mutant(
        "broken trust in one lane is passed over",
        _ATTEMPTS,
        f"{_ONLY_THEN}                        raise self._final(lane.error)\n            raise",
        "            raise",
    ),
    Mutant("the losers go on", _RACE, "            task.cancel()\n", "            pass\n"),
    Mutant("the losers' streams are not closed", _RACE, "            await lane.stream.aclose()\n", ""),
    Mutant(
        "a loser leaves its breaker half open",
        _ATTEMPTS,
        "                self._hung_or_abandoned(lane, is_late=self",
        "                bool(self",
    ),
    Mutant(
        "an answer is continued without leave",
        _ATTEMPTS,
        "if not self.continue_streams or not _may_go_elsewhere(error):",
        "if not _may_go_elsewhere(error):",
    ),
    Mutant(
        "what no other can mend is continued",
        _ATTEMPTS,
        "if not self.continue_streams or not _may_go_elsewhere(error):",
        "if not self.continue_streams:",
    ),
    Mutant(
        "a continuation begins anew",
        _ATTEMPTS,
        'PartialAnswer(text="".join(self._parts), tokens=self._tokens)',
        'PartialAnswer(text="", tokens=0)',
    ),
    Mutant("the text before a continuation is lost", _ATTEMPTS, "            self._parts.append(chunk.text)\n", ""),
    Mutant(
        "tokens whose text is held back count as given",
        _ATTEMPTS,
        "        self._held = 0\n        self.continuations",
        "        self._tokens += self._held\n        self.continuations",
    ),
    Mutant(
        "what was held back before the continuation counts behind it",
        _ATTEMPTS,
        "        self._held = 0\n        self.continuations",
        "        self.continuations",
    ),
    Mutant("the continuation is not told", _ATTEMPTS, "        self.continuations.append(", "        str("),
    Mutant(
        "the tokens before a continuation are not counted",
        _ATTEMPTS,
        "completion_tokens=self.continuations[-1].tokens + usage.completion_tokens",
        "completion_tokens=usage.completion_tokens",
    ),
    Mutant(
        "who broke off is asked first",
        _ATTEMPTS,
        "sorted(self._candidates(), key=partial(self._is_spent, name))",
        "self._candidates()",
    ),
    Mutant(
        "an answer of full length is asked for more",
        _ATTEMPTS,
        "heir = None if self._is_full() else await",
        "heir = await",
    ),
    Mutant(
        "an answer that may not be continued is shown as whole",
        _ATTEMPTS,
        "return self.continue_streams and self._tokens >=",
        "return self._tokens >=",
    ),
    Mutant(
        "continuations are not paid for",
        _ATTEMPTS,
        "calls, free = self._calls[name], self._copies(name)",
        "calls, free = self._calls[name], 9 if self._parts else self._copies(name)",
    ),
    Mutant(
        "an error keeps the texts of its request in its frames",
        _FRAMES,
        "                frame.clear()\n",
        "                pass\n",
    ),
    Mutant("the app's own frames are emptied", _FRAMES, '.partition(".")[0] in _OWN:', ":"),
    Mutant(
        "what led to an error keeps them",
        _FRAMES,
        "            left += [one.__cause__, one.__context__]\n",
        "",
    ),
    Mutant(
        "an error that is mended stays in memory",
        _ATTEMPTS,
        "            broken.__traceback__ = None  # it is mended, and leads back here\n",
        "",
    ),
    Mutant(
        "an error that a loser ends with keeps its frames",
        _ATTEMPTS,
        "                    scrub_traceback(lane.error)\n",
        "                    pass\n",
    ),
    Mutant(
        "an error that was handled keeps its frames",
        _ATTEMPTS,
        "        scrub_traceback(error)\n        if isinst",
        "        if isinst",
    ),
    Mutant("an error that ends a request is kept", _ATTEMPTS, "if other is not error}", "if other}"),
)
