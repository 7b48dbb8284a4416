"""Notices that an answer repeats itself without end, as small greedy models do. Constant work per token."""

from __future__ import annotations

from typing import Final

import numpy as np

_LONGEST_PERIOD: Final = 256
"""Tokens after which a repetition begins anew, at most."""
_LEAST_REPEATED: Final = 128
_LEAST_TIMES: Final = 3


class RepetitionWatch:
    """Watches the tokens of one answer.

    A loop is a piece of 1 to 256 tokens that comes again, token for token and with nothing between, until 128 tokens
    and three times the piece are repeated. Texts of people, code and tables hold none: see docs/benchmarks.md.
    """

    def __init__(self, limit: int) -> None:
        """*limit*: the most tokens that the answer may have."""
        self._tokens = np.full(_LONGEST_PERIOD + limit, -1, dtype=np.int32)
        self._next = _LONGEST_PERIOD
        # By period, from the longest to 1: how many tokens in a row equal the one that many tokens before.
        self._repeated = np.zeros(_LONGEST_PERIOD, dtype=np.int32)
        periods = np.arange(_LONGEST_PERIOD, 0, -1, dtype=np.int32)
        self._enough = np.maximum(_LEAST_TIMES * periods, _LEAST_REPEATED)

    def push(self, token: int) -> bool:
        """Take the next token; return whether the answer is in a loop."""
        at = self._next
        self._repeated += 1
        self._repeated *= self._tokens[at - _LONGEST_PERIOD : at] == token
        self._tokens[at] = token
        self._next = at + 1
        return bool((self._repeated >= self._enough).any())
