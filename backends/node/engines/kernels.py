"""Faster kernels for the modules of a loaded model, on the CPU: each computes what the module in its place computes.

A rewrite looks at one module, whatever model it is part of, and offers another that is kept only if both compute the
same of random inputs. At the end the logits of the whole model are compared with those that it computed before; if they
differ, or its code reads weights that have moved, all modules are put back. Where nothing is faster, nothing changes.

Modules stay at their names, one for one, with their sizes: what changes the output of a module, such as an adapter, can
wrap its `forward`. A module that is wrapped already is left alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, cast

import torch
from torch import nn

_log = logging.getLogger(__name__)
_SAMPLES: Final = ((1, 1.0), (33, 1e-3))
"""Inputs of which two modules must compute the same: tokens, and the size of numbers; small ones show an epsilon."""
_TOLERANCE: Final = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Relative difference of two modules' outputs up to which they count as equal, by their rounding."""
_LOGITS_TOLERANCE: Final = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
_TEXT: Final = 24
"""Tokens of the text whose logits are compared."""
_GATED: Final = ("gate_proj", "up_proj", "down_proj")
"""The layers of a gated feed-forward layer, as the models of transformers name them."""
_PACKED_FOR: Final = 32
"""Rows for which oneDNN chooses the layout of weights: a step of many answers."""


class PackedLinear(nn.Linear):  # type: ignore[misc]  # torch is not typed here
    """A linear layer whose weights are in the layout that oneDNN multiplies by, in bfloat16.

    `linear` brings the weights into that layout at each call, which takes as long as the product itself while rows are
    few. The results are the same, bit by bit.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_FOR)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 the name in nn.Linear
        """As `nn.Linear`."""
        if input.numel() == 0:
            return input.new_empty((*input.shape[:-1], self.out_features))
        return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], ""))

    def original(self) -> nn.Linear:
        """The layer with its weights in the usual layout."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear


class SharedHead(nn.Linear):  # type: ignore[misc]  # torch is not typed here
    """The layer that computes logits by the weights of the embedding, which stay in the embedding's layout.

    With the weights as the left factor oneDNN reads them as they are, and rearranges the few rows instead.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight = linear.weight

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 the name in nn.Linear
        """As `nn.Linear`; the output is not contiguous."""
        rows = input.flatten(0, -2)
        output = torch.mv(self.weight, rows[0]) if len(rows) == 1 else torch.mm(self.weight, rows.t()).t()
        return output.view(*input.shape[:-1], self.out_features)

    def original(self) -> nn.Linear:
        """The layer that it stands for."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = self.weight
        return linear


class FusedGate(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """A feed-forward layer gated by SiLU, `down(silu(gate(x)) * up(x))`, whose activation is part of the products.

    What stands between the products is not written to memory and read again, which pays with many rows. Where one of
    the two is wrapped, by an adapter for instance, the module of transformers computes.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (getattr(module, name) for name in _GATED)
        self._module = (module,)  # in a tuple, it is no part of the model

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """As the module that it stands for."""
        gate, up = self.gate_proj, self.up_proj
        if values.numel() == 0 or _is_wrapped(gate) or _is_wrapped(up):
            return cast(torch.Tensor, self._module[0](values))
        product = torch.ops.mkldnn._linear_pointwise
        gated = product(values, gate.weight, gate.bias, "swish", [], "")
        return cast(torch.Tensor, self.down_proj(product.binary(values, gated, up.weight, up.bias, "mul")))

    def original(self) -> nn.Module:
        """The module of transformers."""
        return self._module[0]


class FusedNorm(nn.RMSNorm):  # type: ignore[misc]  # torch is not typed here
    """The root mean square norm in one call of torch, in place of one for each step of its formula."""

    def __init__(self, module: nn.Module, epsilon: float) -> None:
        weight = cast(nn.Parameter, module.weight)
        super().__init__(weight.shape, eps=epsilon, device="meta")
        self.weight = weight
        self._module = (module,)  # in a tuple, it is no part of the model

    def original(self) -> nn.Module:
        """The module of transformers."""
        return self._module[0]


def accelerate(model: Any) -> int:
    """Replace modules of *model* by faster ones that compute the same. Returns how many; 0 elsewhere than on the CPU.

    Call it before anything wraps the modules.
    """
    if model.device.type != "cpu" or model.dtype not in _TOLERANCE:
        return 0
    replaced: list[str] = []
    try:
        with torch.inference_mode():
            expected = _logits(model)
            for name, faster in _faster(model):
                model.set_submodule(name, faster)
                replaced.append(name)
            if not _close(_logits(model), expected, _LOGITS_TOLERANCE[model.dtype]):
                raise ValueError("other logits")
    except Exception as error:  # noqa: BLE001 an architecture may read its weights in any way
        _log.info(
            "the modules of the model stay what they are: with faster ones it fails with %s", type(error).__name__
        )
        for name in reversed(replaced):
            model.set_submodule(name, model.get_submodule(name).original())
        return 0
    return len(replaced)


def _faster(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The name of each module that can be faster, and what is; one after the other, so that the old weights go."""
    shared = _shared_weights(model)
    for name in reversed([name for name, _ in model.named_modules()]):  # the parts of a module before it
        module = model.get_submodule(name)
        if _is_wrapped(module):
            continue
        faster = _linear(module, shared) or _norm(module) or _gate(module)
        if faster is not None and _equal(module, faster):
            yield name, faster


def _linear(module: nn.Module, shared: set[int]) -> nn.Module | None:
    if type(module) is not nn.Linear or module.weight.dtype != torch.bfloat16 or not packs():
        return None
    if id(module.weight) not in shared:
        return PackedLinear(module)
    return SharedHead(module) if module.bias is None else None


def _norm(module: nn.Module) -> nn.Module | None:
    names = [name for name, _ in module.named_parameters()]
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if names != ["weight"] or type(epsilon) is not float or isinstance(module, nn.RMSNorm | nn.LayerNorm):
        return None
    return FusedNorm(module, epsilon)


def _gate(module: nn.Module) -> nn.Module | None:
    parts = dict(module.named_children())
    activations = [part for name, part in parts.items() if name not in _GATED]
    if len(parts) != len(_GATED) + 1 or len(activations) != 1 or any(module.parameters(recurse=False)):
        return None
    values = torch.linspace(-8.0, 8.0, 65)
    if not all(type(parts[name]) is PackedLinear for name in _GATED) or not _is_silu(activations[0], values):
        return None
    return FusedGate(module)


def _is_silu(activation: nn.Module, values: torch.Tensor) -> bool:
    if any(True for _ in activation.parameters()):
        return False
    return bool(torch.allclose(activation(values), nn.functional.silu(values)))


def _is_wrapped(module: nn.Module) -> bool:
    """Whether something changes what *module* computes."""
    return bool("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks)


def packs() -> bool:
    """Whether this processor multiplies in bfloat16, and this torch has oneDNN's layouts."""
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if torch.backends.cpu.get_cpu_capability() != "AVX512":  # where it was measured
        return False
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _shared_weights(model: Any) -> set[int]:
    """The ids of the parameters that several modules have."""
    held = Counter(id(each) for module in model.modules() for each in module.parameters(recurse=False))
    return {each for each, holders in held.items() if holders > 1}


def _equal(module: nn.Module, faster: nn.Module) -> bool:
    """Whether both compute the same."""
    weight = next(module.parameters())  # of a gated layer that of the gate
    random = torch.Generator().manual_seed(0)
    for rows, scale in _SAMPLES:
        values = torch.randn((1, rows, weight.shape[-1]), generator=random).mul_(scale).to(weight.dtype)
        if not _close(faster(values), module(values), _TOLERANCE[weight.dtype]):
            return False
    return True


def _close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> bool:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    difference = (ours.float() - theirs.float()).norm()
    return bool(difference <= tolerance * theirs.float().norm())


def _logits(model: Any) -> torch.Tensor:
    """Logits of a short text."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (1, _TEXT), generator=random)
    logits: torch.Tensor = model(ids, use_cache=False).logits
    return logits
