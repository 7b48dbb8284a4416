"""A larger decoder that computes what a smaller one computes: function-preserving growth (Chen et al., Net2Net, 2016).

The layers of the smaller one come first, and its inner matrices are the first rows and columns. What is added has
weights of its own, except that the matrices by which it would contribute are zero; training moves these first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind

_OUT: Final = ("o_proj.weight", "down_proj.weight")
"""The ends of the names of the matrices by which a layer contributes, in the family of Llama."""
_TOLERANCE: Final = 1e-4
"""The largest difference of a logit, in standard deviations of the logits."""
_PROBE: Final = 32


def grow(path: Path, large: Any, tokenizer: Any) -> None:
    """Let *large*, which has *tokenizer*, compute what the decoder in *path* computes.

    Raises:
        ConfigError: it cannot: another type, width or tokenizer, or *large* is smaller somewhere.
    """
    import torch

    folder = HubFolder.open(path)
    if folder.tokenizer().get_vocab() != tokenizer.get_vocab():
        raise _refused(path, f"{path} has another tokenizer")
    small = folder.model(ModelKind.CAUSAL)
    if folder.config.get("model_type") != large.config.model_type:
        message = (
            f"{path} is of type `{folder.config.get('model_type')}`, and the new model `{large.config.model_type}`"
        )
        raise _refused(path, message)
    target = dict(large.named_parameters())
    outs = [name for name in target if name.endswith(_OUT)]
    if not outs:
        raise _refused(path, f"models of type `{large.config.model_type}` cannot be grown")
    with torch.no_grad():
        for name in outs:
            target[name].zero_()
        for name, weight in small.named_parameters():
            _put(path, name, weight, target.get(name))
    _check_same(path, small, large)


def _put(path: Path, name: str, weight: Any, target: Any) -> None:
    if target is None or any(mine > room for mine, room in zip(weight.shape, target.shape, strict=True)):
        raise _refused(path, f"the new model has no room for `{name}` of {path}")
    target[tuple(slice(0, length) for length in weight.shape)] = weight


def _check_same(path: Path, small: Any, large: Any) -> None:
    import torch

    ids = (torch.arange(_PROBE) * 61).remainder(small.config.vocab_size).unsqueeze(0)
    with torch.inference_mode():
        expected, found = small(input_ids=ids).logits, large(input_ids=ids).logits
    if float((found - expected).abs().max() / expected.std().clamp(min=1e-9)) > _TOLERANCE:
        raise _refused(path, f"the new model would compute something else than {path}: its width or heads differ")


def _refused(path: Path, message: str) -> ConfigError:
    remedy = "give the type, width, heads and tokenizer of the smaller one, or leave out `grown_from`"
    return ConfigError(f"`grown_from`: {message}: {remedy}", path=str(path))
