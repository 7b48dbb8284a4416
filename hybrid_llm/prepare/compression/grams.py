"""The second moments of what flows into the products of a model on sample texts: what least squares needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

_MOST_BYTES: Final = 1 << 30
"""Of matrices that are held at once; where all take more, the texts are read several times."""


def second_moments(
    model: Any, modules: Mapping[str, Any], batches: Sequence[tuple[Any, Any]]
) -> Iterator[tuple[str, Any]]:
    """For each of the named *modules* the sum of x x^T over its inputs x on *batches* of ids and mask, without padding.

    A matrix is of float32 and the shape (features, features); each is given once, and need not be held.
    """
    for part in _parts(modules):
        found = _moments(model, part, batches)
        for name in part:
            yield name, found.pop(name)


def _parts(modules: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    part: dict[str, Any] = {}
    size = 0
    for name, module in modules.items():
        needs = 4 * int(module.weight.shape[-1]) ** 2
        if part and size + needs > _MOST_BYTES:
            yield part
            part, size = {}, 0
        part[name] = module
        size += needs
    if part:
        yield part


def _moments(model: Any, modules: Mapping[str, Any], batches: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    import torch

    sums: dict[str, Any] = {}
    mask: Any = None

    def adding(name: str) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0][mask].float()
            with torch.autocast("cpu", enabled=False):  # in half precision the sums would lose what least squares needs
                sums[name] = rows.T @ rows if name not in sums else sums[name].addmm_(rows.T, rows)

        return hook

    handles = [module.register_forward_pre_hook(adding(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            for ids, of in batches:
                mask = of.bool()
                model(input_ids=ids, attention_mask=of)
    finally:
        for handle in handles:
            handle.remove()
    return sums
