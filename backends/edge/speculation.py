"""Speculative decoding by prompt lookup: proposes what followed the same tokens before, and checks it in one run.

There is no draft model: summaries, extraction, code and rewriting repeat pieces of their prompt. The run of the last
token takes the proposed ones with it and gives the logits behind each. The answer is drawn from them one by one, as
without; as long as a draw is the proposed token, the next logits are there already, and at the first that is not, the
rest is dropped. So every draw, greedy or by seed, under a grammar or a penalty, sees the logits that it would see
otherwise, provided that a token has the same bits in a run with others as in its own. Imported models are written for
that (`models/gguf/attention.py`), and it is checked on this machine before it is relied on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.edge.structure import Rules, Structure
from hybrid_llm.core.log import log

Logits = NDArray[np.float32]

ROWS: Final = (8, 6, 4, 2)
"""Sizes of runs: the last token of the answer, and proposals."""
_MATCHES: Final = (4, 3, 2)
"""Numbers of last tokens that are looked for, the longest first."""
_FIRST: Final = {4: 0.5, 3: 0.4, 2: 0.25, 0: 0.5}
"""The share of first proposals that are right, by the number of tokens that matched, before any was seen."""
_NEXT: Final = 0.8
"""The share that are right behind one that was."""
_SURE_MATCH: Final = 3
"""From this number on, text that came before is likelier than structure."""
_WEIGHT: Final = 0.12
"""Of the newest observation in every mean."""
_LEAST_GAIN: Final = 1.05
"""By which proposals must be expected to be faster: the costs are measured on a busy machine, perhaps."""
_ROW_COST: Final = 0.2
"""What one more row costs, as a share of a run of one, before it was measured."""


class RowSequence(Protocol):
    """The model and the cache of one answer; `EdgeSequence` describes the members."""

    @property
    def length(self) -> int: ...  # noqa: D102
    @property
    def room(self) -> int: ...  # noqa: D102
    @property
    def buffers(self) -> list[NDArray[Any]]: ...  # noqa: D102
    def append(self, ids: Sequence[int], /) -> Logits: ...  # noqa: D102
    def append_rows(self, ids: Sequence[int], /) -> Logits: ...  # noqa: D102
    def rewind(self, length: int, /) -> None: ...  # noqa: D102


class PromptLookup:
    """Finds what followed the last tokens where they came before, most recently. A token takes constant work."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> None:
        """Take the next token of prompt or answer."""
        tokens, at = self._tokens, len(self._tokens)
        for length in _MATCHES:
            if length <= at:
                self._followers[tuple(tokens[at - length :])] = at
        tokens.append(token)

    def proposal(self, most: int) -> tuple[int, list[int]]:
        """How many tokens matched, and at most *most* that may follow; 0 and none if the last two never came before."""
        tokens = self._tokens
        for length in _MATCHES:
            start = self._followers.get(tuple(tokens[-length:]))
            if start is not None and len(tokens) >= length:
                found = tokens[start : start + most]
                while len(found) < most:  # the piece reaches up to now, so its repetition would go on
                    found += found[: most - len(found)]
                return length, found
        return 0, []


class Acceptance:
    """The shares of proposals that were right, in the answer so far; also of those that were not tried."""

    def __init__(self) -> None:
        self._first = dict(_FIRST)
        self._next = dict.fromkeys((True, False), _NEXT)
        self._streak = False

    def note(self, matched: int, *, right: bool) -> None:
        """The proposal behind *matched* tokens, 0 for structure, was *right* or not."""
        if self._streak:
            self._next[matched > 0] += _WEIGHT * (right - self._next[matched > 0])
        else:
            self._first[matched] += _WEIGHT * (right - self._first[matched])
        self._streak = right

    def lost(self) -> None:
        """There was no proposal for a token."""
        self._streak = False

    def expected(self, matched: int, count: int) -> float:
        """How many of *count* proposals behind *matched* tokens will be right."""
        following = self._next[matched > 0]
        first = following if self._streak else self._first[matched]
        return first * sum(following**at for at in range(count))


class RowRuns:
    """What runs of several rows of one model cost, and whether they are exact. Shared by its answers; thread-safe."""

    def __init__(self) -> None:
        self.exact = True
        """Whether no token was seen to have other bits in a run with others."""
        self._checked: set[tuple[int, int]] = set()
        self._costs: dict[int, float] = {}

    def cost(self, rows: int) -> float:
        """Of a run of *rows*, in runs of one."""
        return self._costs.get(rows, 1 + _ROW_COST * (rows - 1))

    def took(self, rows: int, cost: float) -> None:
        """A run of *rows* took the time of *cost* runs of one."""
        before = self.cost(rows)
        self._costs[rows] = before + _WEIGHT * (min(max(cost, 1.0), rows) - before)

    def checked(self, rows: int, length: int) -> bool:
        """Whether runs of *rows* behind about *length* tokens were compared: kernels differ by sizes."""
        return (rows, length.bit_length()) in self._checked

    def compare(self, sequence: RowSequence, ids: Sequence[int]) -> Logits:
        """Run *ids* at once and one by one, and note whether all bits agree; returns the logits of those one by one."""
        start = sequence.length
        together = sequence.append_rows(ids)
        caches = [buffer[:, :, start : sequence.length].copy() for buffer in sequence.buffers]
        sequence.rewind(start)
        alone = np.stack([sequence.append([token]).copy() for token in ids])
        pairs = zip(caches, sequence.buffers, strict=True)
        if np.array_equal(together, alone) and all(
            np.array_equal(a, b[:, :, start : sequence.length]) for a, b in pairs
        ):
            self._checked.add((len(ids), start.bit_length()))
        else:
            self.exact = False
            log.info("speculative decoding is off: this processor computes a token otherwise beside other tokens")
        return alone


class Speculation:
    """Appends to *sequence* token by token, with proposals; what it returns is the same without them."""

    def __init__(
        self,
        sequence: RowSequence,
        runs: RowRuns,
        prompt: Sequence[int],
        rules: Rules | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sequence, self._runs, self._clock = sequence, runs, clock
        self._lookup = PromptLookup(prompt)
        self._structure = None if rules is None else Structure(rules)
        self._acceptance = Acceptance()
        self._begun = False
        self._matched = 0
        self._guess: list[int] = []
        self._rows: Logits | None = None
        self._at = 0
        self._seconds = 0.0
        self._tried = 0
        self.accepted = 0
        """Proposed tokens that the answer has."""

    @property
    def rejected(self) -> int:
        """Proposed tokens that were computed and that the answer does not have."""
        return self._tried - self.accepted

    def append(self, ids: Sequence[int]) -> Logits:
        """At first the rest of the prompt, then each token of the answer; returns the logits after the last one.

        Raises:
            ValueError: as of `EdgeSequence.append`.
        """
        if not self._begun:
            self._begun = True
            return self._sequence.append(ids)
        (token,) = ids
        self._lookup.push(token)
        if self._structure is not None:
            self._structure.push(token)
        right = self._judge(token)
        if self._rows is not None:
            if right:
                self.accepted += 1
                return self._next_row(self._rows)
            self._drop(self._rows)
        return self._run(token)

    def settle(self) -> None:
        """Drop proposals from the cache that no draw has confirmed, at the end of the answer."""
        if self._rows is not None:
            self._sequence.rewind(self._sequence.length - len(self._rows) + 1 + self._at)
            self._rows = None

    def _judge(self, token: int) -> bool:
        """Whether *token* is the next of the guess, which the acceptance learns."""
        if self._at >= len(self._guess):
            return False
        right = token == self._guess[self._at]
        self._at += 1
        self._acceptance.note(self._matched, right=right)
        return right

    def _next_row(self, rows: Logits) -> Logits:
        row: Logits = rows[self._at]
        if self._at + 1 == len(rows):
            self._rows, self._guess = None, []
        return row

    def _drop(self, rows: Logits) -> None:
        """Forget the rest of a run, the token that was judged last included."""
        self._sequence.rewind(self._sequence.length - len(rows) + self._at)
        self._rows = None

    def _run(self, token: int) -> Logits:
        self._matched, self._guess = self._propose() if self._runs.exact else (0, [])
        self._at = 0
        count = self._count()
        if count == 1:
            return self._timed(token)
        ids = [token, *self._guess[: count - 1]]
        self._guess = ids[1:]
        self._tried += len(self._guess)
        if not self._runs.checked(count, self._sequence.length):
            self._rows = self._runs.compare(self._sequence, ids)
        else:
            begun = self._clock()
            self._rows = self._sequence.append_rows(ids)
            if self._seconds:
                self._runs.took(count, (self._clock() - begun) / self._seconds)
        first: Logits = self._rows[0]
        return first

    def _propose(self) -> tuple[int, list[int]]:
        """How many tokens matched, 0 if the structure of a document is proposed, and what may follow."""
        matched, found = self._lookup.proposal(ROWS[0] - 1)
        if self._structure is None:
            return matched, found
        found = self._structure.allowed(found)
        if not found or matched < _SURE_MATCH:
            structure = self._structure.proposal(ROWS[0] - 1)
            return (0, structure) if structure else (matched, found)
        return matched, found

    def _timed(self, token: int) -> Logits:
        begun = self._clock()
        logits = self._sequence.append([token])
        took = self._clock() - begun
        self._seconds += (_WEIGHT if self._seconds else 1.0) * (took - self._seconds)
        return logits

    def _count(self) -> int:
        """Rows of the next run: those with which an answer is expected to be the fastest; 1 is without proposals."""
        if not self._guess:
            self._acceptance.lost()
            return 1
        gains = {
            rows: (1 + self._acceptance.expected(self._matched, rows - 1)) / self._runs.cost(rows)
            for rows in ROWS
            if rows <= min(self._sequence.room, len(self._guess) + 1)
        }
        best = max(gains, key=lambda rows: gains[rows], default=1)
        return best if gains.get(best, 0.0) >= _LEAST_GAIN else 1
