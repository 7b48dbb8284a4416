"""How much each part of a model matters: by its weights, by what it adds on real texts, or by the loss without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from hybrid_llm.prepare.compression.pruning.anatomy import Anatomy, Size, anatomy_of

Batch = tuple[Any, Any]
"""Ids and their mask."""
LossOf = Callable[[Any, Batch], Any]
_TINY: Final = 1e-12


class Measure(StrEnum):
    """What importance is computed from."""

    WEIGHTS = "weights"
    """The length of the weights that read a part (Li et al., Pruning Filters for Efficient ConvNets, 2017); no data."""
    ACTIVATIONS = "activations"
    """What a part adds to its layer on texts (Sun et al., Wanda, 2024; for layers Men et al., ShortGPT, 2024)."""
    GRADIENTS = "gradients"
    """How the loss would change without it, to first order (Molchanov et al., 2019; Ma et al., LLM-Pruner, 2023)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """Scores of all parts; the numbers compare within one list only."""

    layers: list[float]
    groups: list[list[float]]
    inner: list[list[float]]
    width: list[float]


@dataclass(slots=True)
class _Sums:
    """Scores of one layer that grow from batch to batch, each a vector over channels; of the layer itself a number."""

    attention: Any = 0.0
    inner: Any = 0.0
    width: Any = 0.0
    layer: float = 0.0


def measure_importance(model: Any, measure: Measure, batches: Sequence[Batch], loss: LossOf) -> Importance:
    """The importance of each part of *model* on *batches*, which `weights` does not read."""
    anatomy = anatomy_of(model)
    sums = [_Sums() for _ in anatomy.layers(model)]
    if measure is Measure.WEIGHTS:
        _by_weights(model, anatomy, sums)
    for batch in batches if measure is not Measure.WEIGHTS else ():
        _read(model, anatomy, sums, batch, loss, measure)
    return _collected(model, sums)


def _by_weights(model: Any, anatomy: Anatomy, sums: list[_Sums]) -> None:
    for layer, into in zip(anatomy.layers(model), sums, strict=True):
        attention, inner = (layer.get_submodule(name).weight.detach() for name in (anatomy.attention, anatomy.inner))
        into.attention, into.inner = attention.square().sum(0), inner.square().sum(0)
        into.width = attention.square().sum(1) + inner.square().sum(1)
        into.layer = float(into.width.sum())


def _read(model: Any, anatomy: Anatomy, sums: list[_Sums], batch: Batch, loss: LossOf, measure: Measure) -> None:
    """Run one batch, with hooks that record, and add what they found."""
    import torch

    by_gradients = measure is Measure.GRADIENTS
    with _recorded(model, anatomy) as records, torch.set_grad_enabled(by_gradients):
        value = loss(model, batch)
        if by_gradients:
            for record in records:
                for tensor in record.values():
                    tensor.retain_grad()
            value.backward()
            model.zero_grad()
    mask = batch[1].bool()
    with torch.no_grad():
        for layer, record, into in zip(anatomy.layers(model), records, sums, strict=True):
            add = _add_gradients if by_gradients else partial(_add_activations, layer, anatomy)
            add(record, mask, into)


@contextmanager
def _recorded(model: Any, anatomy: Anatomy) -> Iterator[list[dict[str, Any]]]:
    """What flows through each layer while the block runs, by name."""
    records: list[dict[str, Any]] = []
    handles = []
    for layer in anatomy.layers(model):
        record: dict[str, Any] = {}
        records.append(record)
        for name, path in (("attention", anatomy.attention), ("inner", anatomy.inner)):
            handles.append(layer.get_submodule(path).register_forward_pre_hook(_keep_input(record, name)))
        for path in anatomy.norms:
            handles.append(layer.get_submodule(path).register_forward_hook(_keep_output(record, path)))
        handles.append(layer.register_forward_pre_hook(_keep_input(record, "before")))
        handles.append(layer.register_forward_hook(_keep_output(record, "after")))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(record: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[Any, ...]) -> None:
        record[name] = inputs[0]

    return hook


def _keep_output(record: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(_: Any, __: Any, output: Any) -> None:
        record[name] = output[0] if isinstance(output, tuple) else output

    return hook


def _add_activations(layer: Any, anatomy: Anatomy, record: dict[str, Any], mask: Any, into: _Sums) -> None:
    import torch

    for name, path in (("attention", anatomy.attention), ("inner", anatomy.inner)):
        reads = layer.get_submodule(path).weight.detach().square().sum(0)
        setattr(into, name, getattr(into, name) + record[name][mask].square().sum(0) * reads)
    into.width = into.width + sum(record[path][mask].abs().sum(0) for path in anatomy.norms)
    before, after = record["before"][mask], record["after"][mask]
    into.layer += float((1 - torch.nn.functional.cosine_similarity(before, after, dim=-1)).mean())


def _add_gradients(record: dict[str, Any], mask: Any, into: _Sums) -> None:
    changes = {name: (tensor * tensor.grad)[mask] for name, tensor in record.items()}
    into.attention = into.attention + changes.pop("attention").sum(0).abs()
    into.inner = into.inner + changes.pop("inner").sum(0).abs()
    added = (record["after"] - record["before"]) * record["after"].grad
    into.layer += float(added[mask].sum().abs())
    del changes["before"], changes["after"]
    into.width = into.width + sum(change.sum(0).abs() for change in changes.values())


def _collected(model: Any, sums: list[_Sums]) -> Importance:
    groups = Size.of(model).groups
    by_group = [each.attention.reshape(groups, -1).sum(1) for each in sums]
    width = sum(each.width / (each.width.mean() + _TINY) for each in sums)
    return Importance(
        layers=[each.layer for each in sums],
        groups=[each.tolist() for each in by_group],
        inner=[each.inner.tolist() for each in sums],
        width=width.tolist(),
    )
