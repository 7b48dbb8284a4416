"""Presence and frequency penalties by the formula of OpenAI's documentation, as vLLM computes it, for comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def with_any_penalties(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run *test* with logits of six tokens, a presence and a frequency penalty, and a partial answer."""
    return settings(max_examples=100, deadline=None)(
        given(
            logits=st.lists(st.floats(-20, 20, width=32), min_size=6, max_size=6),
            presence=st.floats(-2, 2),
            frequency=st.floats(-2, 2),
            partial=st.lists(st.integers(0, 5), max_size=5),
        )(test)
    )


def penalised(logits: torch.Tensor, answer: Sequence[int], *, presence: float, frequency: float) -> torch.Tensor:
    """*logits*, of shape (vocab,), less what each token loses for being in *answer*."""
    counts = torch.zeros_like(logits).scatter_add(
        0, torch.tensor(list(answer), dtype=torch.long), torch.ones(len(answer))
    )
    return logits - frequency * counts - presence * (counts > 0)


class AnswerPenaltyProcessor:
    """The same as a logits processor of transformers' `generate`, for a prompt of *prompt_tokens* tokens."""

    def __init__(self, prompt_tokens: int, *, presence: float, frequency: float) -> None:
        self._prompt_tokens, self._presence, self._frequency = prompt_tokens, presence, frequency

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        answers = input_ids[:, self._prompt_tokens :].tolist()
        rows = [
            penalised(row, answer, presence=self._presence, frequency=self._frequency)
            for row, answer in zip(scores, answers, strict=True)
        ]
        return torch.stack(rows)
