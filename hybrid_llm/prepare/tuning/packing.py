"""Several whole conversations in one row, of which little is filled up. None is cut, and each sees itself alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

_OPEN: Final = 64
"""Rows that wait for a conversation that fits."""


@dataclass(slots=True)
class _Packed:
    """A row that is being filled: its columns, of one length."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {"position_ids": []})

    def __len__(self) -> int:
        return len(self.columns["position_ids"])

    def add(self, row: Mapping[str, list[Any]]) -> None:
        for name, values in row.items():
            self.columns.setdefault(name, []).extend(values)
        self.columns["position_ids"].extend(range(len(row["input_ids"])))


def packed(rows: Any, length: int, seed: int) -> Iterator[dict[str, list[Any]]]:
    """The *rows* of a dataset, drawn by *seed*, in rows of at most *length* tokens (best fit).

    `position_ids` begin again with each conversation, by which transformers keeps their attention apart.
    """
    waiting: list[_Packed] = []
    for number in Random(seed).sample(range(len(rows)), len(rows)):  # noqa: S311 no secret
        row = rows[number]
        fitting = [each for each in waiting if len(each) + len(row["input_ids"]) <= length]
        if not fitting:
            if len(waiting) == _OPEN:
                fullest = max(waiting, key=len)
                waiting.remove(fullest)
                yield fullest.columns
            waiting.append(_Packed())
            fitting = waiting[-1:]
        max(fitting, key=len).add(row)
    yield from (each.columns for each in waiting)
