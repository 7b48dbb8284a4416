"""How often each backend may be called for one request, and which of the calls draw on the retry budget. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid_llm.core.health import RetryBudget


@dataclass(slots=True, kw_only=True)
class Allowance:
    """The calls of one request, by backend.

    One call of each node is free. Of the others, as many as *retries* may follow each other without bringing the answer
    forward. They take one token from the *budget* each; calls that were lost together take one together. One that goes
    on with an answer takes the share of what it reads again that the call before it did not bring forward. So of all
    tokens that are read again, those that the budget does not pay for are no more than those that were delivered.
    """

    budget: RetryBudget
    retries: int
    """Further calls of each backend after its first."""
    nodes: Mapping[str, int]
    """How many nodes a backend has, where there are several."""
    _calls: Counter[str] = field(default_factory=Counter)
    _stalled: Counter[str] = field(default_factory=Counter)
    """Calls since the answer last came forward."""
    _broken: float | None = None
    """When the call began that was lost, or whose answer broke off, until the next one is paid for."""
    _price: float = 1.0
    """What that one takes from the budget."""

    def copies(self, name: str) -> int:
        """How many nodes *name* has."""
        return self.nodes.get(name, 1)

    def called_all(self, name: str) -> bool:
        """Whether each node of *name* was called, so that a further call repeats one."""
        return self._calls[name] >= self.copies(name)

    def note_call(self, name: str) -> None:
        """A call of *name* starts."""
        self._calls[name] += 1
        self._stalled[name] += 1

    def note_lost(self, began: float) -> None:
        """A call that *began* then was lost, maybe with others: the next one is paid for together with theirs."""
        self._broken, self._price = began, 1.0

    def note_progress(self, began: float, *, delivered: int, again: int) -> None:
        """A call that *began* then brought the answer forward and broke off: to go on is no retry, if there are any.

        It *delivered* so many tokens; the next one reads *again* the prompt and all of the answer so far, in tokens.
        """
        if self.retries:
            self._broken, self._price = began, max(0.0, 1.0 - delivered / again)
            self._stalled.clear()

    def allows(self, name: str, *, now: float, paid: bool) -> bool:
        """Whether *name* may be called *now*. Takes what the call costs from the budget, unless it is *paid*."""
        if self._stalled[name] >= (self.retries + 1) * self.copies(name):
            return False
        if paid or not self.called_all(name):
            return True
        broken, self._broken = self._broken, None
        return self.budget.withdraw() if broken is None else self.budget.pays_together(broken, now, self._price)

    def pays(self) -> bool:
        """Whether a further call may be paid for."""
        return self._broken is not None or self.budget.pays()
