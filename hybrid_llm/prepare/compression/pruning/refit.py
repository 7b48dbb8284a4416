"""Fits products that lost inputs to what they gave before, by least squares: recovery without a step of training.

The product behind the heads, or behind the inner units, gives Y = X W^T. Where only the columns K of X stay, the W'
that minimises |Y - X_K W'^T|^2 + a |W' - W_K|^2 is W_K + W_R C_RK (C_KK + a I)^-1, with R the others and C = X^T X over
sample tokens: the optimal brain surgeon (Hassibi and Stork, 1993) for whole columns (Kurtic et al., ZipLM, 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from hybrid_llm.prepare.compression.grams import second_moments
from hybrid_llm.prepare.compression.pruning.anatomy import anatomy_of
from hybrid_llm.prepare.compression.pruning.cut import Kept, indices_of
from hybrid_llm.prepare.compression.pruning.importance import Batch

_DAMPING: Final = 0.01
"""The penalty of a change of weights, as a share of the mean second moment."""


def refit(original: Any, pruned: Any, kept: Kept, batches: Sequence[Batch]) -> None:
    """Change the weights of *pruned*, which is *original* cut to *kept*, so that it is nearer to it on *batches*."""
    columns = dict(_columns(original, kept))
    target = {name: pruned.get_submodule(_renamed(original, kept, name)) for name in columns}
    modules = {name: original.get_submodule(name) for name in columns}
    rows = list(kept.width)
    for name, moments in second_moments(original, modules, batches):
        weight = modules[name].weight.detach()[rows]
        target[name].weight.data.copy_(fitted(weight, moments, columns[name]))


def fitted(weight: Any, moments: Any, columns: Sequence[int]) -> Any:
    """The *columns* of *weight*, (outputs, inputs), changed so that they stand in for all; *moments* of the inputs."""
    import torch

    keep = torch.tensor(columns)
    gone = torch.ones(weight.shape[1], dtype=torch.bool)
    gone[keep] = False
    moments = moments.double()
    among = moments[keep][:, keep]
    among.diagonal().add_(_DAMPING * float(moments.diagonal().mean()) + torch.finfo(torch.float64).tiny)
    change = torch.linalg.solve(among, moments[keep][:, gone] @ weight[:, gone].double().T).T
    return (weight[:, keep].double() + change).to(weight.dtype)


def _columns(model: Any, kept: Kept) -> Iterator[tuple[str, list[int]]]:
    """For each product of *model* that loses inputs, in layers that are kept, those that it keeps."""
    anatomy = anatomy_of(model)
    for at, layer in enumerate(kept.layers):
        for path, spans in ((anatomy.attention, "heads"), (anatomy.inner, "inner")):
            name = f"{anatomy.stack}.{layer}.{path}"
            found = indices_of(spans, model, kept, at)
            if len(found) < model.get_submodule(name).weight.shape[1]:
                yield name, found


def _renamed(model: Any, kept: Kept, name: str) -> str:
    stack = anatomy_of(model).stack
    layer, path = name.removeprefix(f"{stack}.").split(".", 1)
    return f"{stack}.{kept.layers.index(int(layer))}.{path}"
