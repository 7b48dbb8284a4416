"""LoRA adapters beside one model: in a step each row is computed with the adapter of its request, or with none.

Each module that an adapter changes adds `B A x` to its own output, for the rows of that adapter. The weights of all
adapters of a module are one matrix, adapter after adapter, so that a step over rows of several needs two products
instead of two for each: what is not a row's own is masked between them. (After S-LoRA, arXiv 2311.03285, and Punica,
arXiv 2310.18547, whose kernels gather by row.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Final

import torch
from torch.nn.functional import embedding

from hybrid_llm.backends.node.engines.lora_files import AdapterWeights

_LONG: Final = 32
"""So many rows of one adapter are computed by themselves: a mask costs more than another call."""
_GAP: Final = 64
"""Ranks of adapters that no row of a block has, up to which they are computed too and masked."""
Run = tuple[str, int]
"""The adapter of consecutive rows, empty for none, and how many they are."""
Weights = tuple[torch.Tensor, torch.Tensor]
"""Of one module: A, of shape (rank, in), and B times its scale, (out, rank)."""
Layout = tuple[int, ...]
"""Where the ranks of each adapter begin in the weights of a module, and where the last end."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a step that are computed together, with some of the ranks."""

    rows: slice
    ranks: slice
    others: torch.Tensor | None
    """Which ranks are not a row's own, (rows, ranks); None where all are."""


class Delta:
    """What the adapters add to the output of one module; nothing while no row has an adapter.

    Args:
        bank: Has the rows of the current step.
        weights: Those of each adapter; of rank 0 for none.
        output: The module computes logits, of the last rows of complete requests only.
    """

    def __init__(
        self, bank: AdapterBank, weights: Sequence[tuple[torch.Tensor, torch.Tensor]], *, output: bool
    ) -> None:
        self._bank = bank
        self._output = output
        self.layout: Layout = (0, *accumulate(len(down) for down, _ in weights))
        self._down = torch.cat([down for down, _ in weights]).t()
        self._up = torch.cat([up.t() for _, up in weights])

    def __call__(self, inputs: torch.Tensor, output: torch.Tensor) -> None:
        """Add to *output*, (..., rows, out), what the adapters make of *inputs*: (..., rows, in), or token ids."""
        step = self._bank.step
        if step is None:
            return
        rows = output.flatten(0, -2)
        values = inputs.flatten() if inputs.dtype == torch.long else inputs.flatten(0, -2).to(self._down.dtype)
        for part in step.parts(self.layout, output=self._output):
            inner = self._inner(values[part.rows], part.ranks)
            if part.others is not None:
                inner = inner.masked_fill_(part.others, 0.0)
            rows[part.rows].add_(inner @ self._up[part.ranks])

    def _inner(self, values: torch.Tensor, ranks: slice) -> torch.Tensor:
        if values.dtype == torch.long:
            return embedding(values, self._down[:, ranks])
        return values @ self._down[:, ranks]


class Step:
    """Which rows of a step have which adapter. Masks are made once for all modules of one layout."""

    def __init__(
        self, adapters: Mapping[str, int], runs: Sequence[Run], kept: Sequence[Run], device: torch.device
    ) -> None:
        self._runs = {False: _runs(adapters, runs), True: _runs(adapters, kept)}
        self._device = device
        self._parts: dict[tuple[Layout, bool], list[Part]] = {}

    def parts(self, layout: Layout, *, output: bool) -> list[Part]:
        """How the rows are computed by a module with *layout*."""
        key = (layout, output)
        if key not in self._parts:
            self._parts[key] = list(_parts(self._runs[output], layout, self._device))
        return self._parts[key]


class AdapterBank:
    """The adapters beside *model*, whose modules compute them where `select`, before each step, names one.

    Their weights are taken out of *adapters* one module after the other, so that none are in memory twice.

    Raises:
        ConfigError: the module of an adapter's weights is no linear layer or embedding of their shape.
    """

    def __init__(self, model: Any, adapters: Mapping[str, AdapterWeights]) -> None:
        self._indexes = {name: index for index, name in enumerate(adapters)}
        self._device: torch.device = model.device
        self.step: Step | None = None
        """The rows of the current step; None if none has an adapter."""
        self.deltas: dict[str, Delta] = {}
        """By the name of the module."""
        self._adapted: list[tuple[Any, Any, Any]] = []
        """Each module, the `forward` that was set on it, if any, and the one with adapters."""
        head = model.get_output_embeddings()
        for name in dict.fromkeys(module for each in adapters.values() for module in each.modules):
            module = model.get_submodule(name)
            weights = [each.take(name, module) for each in adapters.values()]
            self.deltas[name] = Delta(self, weights, output=module is head)
            self._adapted.append((module, vars(module).get("forward"), _with_delta(module.forward, self.deltas[name])))

    def select(self, runs: Sequence[Run], kept: Sequence[Run]) -> None:
        """The next step computes these rows, and logits of the *kept* ones, by the adapter of each.

        Where no row has one, the modules are those of the base again: adapters cost such a step nothing.
        """
        some = any(name for name, _ in runs)
        if some != (self.step is not None):
            self._wrap(on=some)
        self.step = Step(self._indexes, runs, kept, self._device) if some else None

    def _wrap(self, *, on: bool) -> None:
        for module, own, adapted in self._adapted:
            attributes = vars(module)  # torch's own `__setattr__` takes 20 times as long
            attributes.pop("forward", None)
            if forward := adapted if on else own:
                attributes["forward"] = forward


def _with_delta(forward: Callable[..., torch.Tensor], delta: Delta) -> Callable[..., torch.Tensor]:
    # In place of a forward hook, which makes each call of the module 7 us slower, also where no row has an adapter.
    def adapted(inputs: torch.Tensor) -> torch.Tensor:
        output = forward(inputs)
        delta(inputs, output)
        return output

    return adapted


def _runs(adapters: Mapping[str, int], runs: Sequence[Run]) -> list[tuple[int, int, int | None]]:
    """First row, last row and adapter of the rows, as far as neighbours have the same."""
    found, end = [], 0
    for name, same in groupby(runs, key=lambda run: run[0]):
        begin, end = end, end + sum(rows for _, rows in same)
        found.append((begin, end, adapters[name] if name else None))
    return found


def _parts(runs: Sequence[tuple[int, int, int | None]], layout: Layout, device: torch.device) -> Iterator[Part]:
    for is_long, group in groupby(runs, key=lambda run: run[1] - run[0] >= _LONG):
        some = [
            (begin, end, index)
            for begin, end, index in group
            if index is not None and layout[index + 1] > layout[index]
        ]
        if is_long or len(some) == 1:
            yield from (Part(slice(begin, end), slice(layout[at], layout[at + 1]), None) for begin, end, at in some)
        elif some:
            yield from _block(some, layout, device)


def _block(runs: Sequence[tuple[int, int, int]], layout: Layout, device: torch.device) -> Iterator[Part]:
    """The rows of several adapters, by few products, though they compute what is masked."""
    first, last = runs[0][0], runs[-1][1]
    for low, high in _spans(sorted({index for _, _, index in runs}), layout):
        others = torch.ones((last - first, high - low), dtype=torch.bool)
        for begin, end, index in runs:
            if low <= layout[index] < high:
                others[begin - first : end - first, layout[index] - low : layout[index + 1] - low] = False
        yield Part(slice(first, last), slice(low, high), others.to(device))


def _spans(indexes: Sequence[int], layout: Layout) -> list[tuple[int, int]]:
    """Ranges of ranks that have all those of the adapters *indexes*, and few others."""
    spans: list[tuple[int, int]] = []
    for index in indexes:
        low, high = layout[index], layout[index + 1]
        if spans and low - spans[-1][1] <= _GAP:
            low = spans.pop()[0]
        spans.append((low, high))
    return spans
