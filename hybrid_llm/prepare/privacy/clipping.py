"""The sum of the clipped gradients of some units: no unit adds more than the clipping norm to it.

Records are clipped in batches by opacus: with ghost clipping (Li et al. 2022, arXiv:2110.05679), which finds the norm
of a record's gradient without the gradient itself, or with the gradient of each record in memory. Units of several
records are clipped one after the other, by the gradient of their mean loss.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final, Protocol

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.privacy.units import Example, Unit

_TOLERANCE: Final = 0.01
IGNORED: Final = -100
"""What stands for a target that has no loss."""


class Clipping(StrEnum):
    """How records are clipped."""

    GHOST = "ghost"
    PER_SAMPLE = "per-sample"


class Clipped(Protocol):
    """Adds up clipped gradients."""

    def add(self, units: Sequence[Unit]) -> None:
        """Add the clipped gradient of each of *units* to `grad` of the parameters that are trained."""


def losses(model: Any, batch: Sequence[Example], padding: int) -> Any:
    """The loss of each example, natural logarithm: of its label, or the mean over its tokens.

    Padding has no influence, and every row has position numbers of its own, which per-record gradients need.
    """
    import torch

    logits, targets = outputs(model, batch, padding)
    each = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), targets, reduction="none", ignore_index=IGNORED)
    return each if each.dim() == 1 else each.sum(dim=1) / (targets != IGNORED).sum(dim=1).clamp(min=1)


def outputs(model: Any, batch: Sequence[Example], padding: int) -> tuple[Any, Any]:
    """The logits for each example, or for each of its tokens but the last, and the numbers that they should favour."""
    import torch

    width = max(len(each.ids) for each in batch)
    ids = torch.tensor([[*each.ids, *[padding] * (width - len(each.ids))] for each in batch])
    real = torch.tensor([[1] * len(each.ids) + [0] * (width - len(each.ids)) for each in batch])
    inputs = {"input_ids": ids, "attention_mask": real, "position_ids": torch.arange(width).repeat(len(batch), 1)}
    inputs |= {"token_type_ids": torch.zeros_like(ids), "use_cache": False}
    taken = _arguments(model)
    logits = model(**{name: value for name, value in inputs.items() if name in taken}).logits.float()
    if batch[0].label is not None:
        return logits, torch.tensor([each.label for each in batch])
    return logits[:, :-1], ids.masked_fill(real == 0, IGNORED)[:, 1:]


def _arguments(model: Any) -> set[str]:
    """The arguments of the forward function of transformers, below the wrappers of opacus and peft."""
    inner = getattr(model, "_module", model)
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    return set(inspect.signature(inner.forward).parameters)


def trained(model: Any) -> list[tuple[str, Any]]:
    """The parameters that are trained, by name."""
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]


def refuse_mixing(model: Any) -> None:
    """Refuse layers in which one record of a batch influences another, such as batch normalisation.

    Raises:
        ConfigError: there is one; or opacus is missing.
    """
    try:
        from opacus.validators import ModuleValidator
    except ImportError as error:
        raise ConfigError(f"private tuning needs opacus: {install_hint('prepare')}") from error
    faults = ModuleValidator.validate(model, strict=False)
    if faults:
        message = f"this model cannot be tuned privately: {faults[0]}; choose a model without such layers"
        raise ConfigError(message)


class RecordClipping:
    """Clips records, in batches of at most *together*."""

    def __init__(self, model: Any, how: Clipping, norm: float, padding: int, together: int) -> None:
        """Wrap *model*, whose parameters that are trained may not change later. ConfigError if opacus cannot do it."""
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        refuse_mixing(model)
        shared = len([*model.named_parameters(remove_duplicate=False)]) > len([*model.named_parameters()])
        if how is Clipping.GHOST and shared and _shares_trained(model):
            message = "ghost clipping cannot count a weight that two layers share: use clipping: per-sample, or LoRA"
            raise ConfigError(message)
        self._wrapped = GradSampleModuleFastGradientClipping(
            model,
            loss_reduction="sum",
            strict=False,
            max_grad_norm=norm,
            use_ghost_clipping=how is Clipping.GHOST,
        )
        self._parameters = [each for _, each in trained(model)]
        self._norm, self._padding, self._together = norm, padding, together

    def add(self, units: Sequence[Unit]) -> None:
        """Add the clipped gradient of each of *units* to `grad` of the parameters that are trained."""
        for batch in _batches([unit[0] for unit in units], self._together):
            self._add(batch)

    def _add(self, batch: Sequence[Example]) -> None:
        import torch

        before = [each.grad for each in self._parameters]
        self._clear()
        with native, _quiet():
            each_loss = losses(self._wrapped, batch, self._padding)
            factors = self._factors(each_loss)
            for parameter, sum_so_far in zip(self._parameters, before, strict=True):
                parameter.grad = sum_so_far
            self._wrapped.disable_hooks()
            torch.sum(factors * each_loss).backward()
            self._wrapped.enable_hooks()

    def _factors(self, each_loss: Any) -> Any:
        """What each record's gradient is multiplied with, from a first pass that finds the norms."""
        each_loss.sum().backward(retain_graph=True)
        if any(not hasattr(each, "_norm_sample") for each in self._parameters):
            raise ConfigError("a weight that is trained has no part in the loss: use LoRA, or another model")
        return self._wrapped.get_clipping_coef().detach()

    def check(self, batch: Sequence[Example]) -> None:
        """Compare the norms of opacus with those of one record after the other.

        Raises:
            ConfigError: they differ, as where a layer treats the records of a batch as one.
        """
        import torch

        with _quiet():
            self._factors(losses(self._wrapped, batch, self._padding))
        counted = self._wrapped.get_norm_sample().detach()
        self._wrapped.disable_hooks()
        true = []
        for example in batch:
            self._clear()
            with _quiet():
                losses(self._wrapped, [example], self._padding).sum().backward()
            true.append(_norm(self._parameters))
        self._wrapped.enable_hooks()
        self._clear()
        if not torch.allclose(counted, torch.stack(true), rtol=_TOLERANCE, atol=1e-6):
            message = (
                "the gradients of single records cannot be clipped exactly in this model: use clipping: per-sample, or"
                " LoRA"
            )
            raise ConfigError(message)

    def _clear(self) -> None:
        for each in self._parameters:
            each.grad = None


def _shares_trained(model: Any) -> bool:
    seen: set[int] = set()
    for _, each in model.named_parameters(remove_duplicate=False):
        if each.requires_grad and id(each) in seen:
            return True
        seen.add(id(each))
    return False


class UnitClipping:
    """Clips units of several records, by the gradient of the mean loss of each."""

    def __init__(self, model: Any, norm: float, padding: int, together: int) -> None:
        """Clip the gradients of *model*. ConfigError if records influence each other in it."""
        refuse_mixing(model)
        self._model, self._norm, self._padding, self._together = model, norm, padding, together
        self._parameters = [each for _, each in trained(model)]

    def add(self, units: Sequence[Unit]) -> None:
        """Add the clipped gradient of each of *units* to `grad` of the parameters that are trained."""
        import torch

        total = [each.grad if each.grad is not None else torch.zeros_like(each) for each in self._parameters]
        for unit in units:
            for parameter in self._parameters:
                parameter.grad = None
            with native:
                for batch in _batches(unit, self._together):
                    (losses(self._model, batch, self._padding).sum() / len(unit)).backward()
                factor = torch.clamp(self._norm / (_norm(self._parameters) + 1e-6), max=1.0)
                for sum_so_far, parameter in zip(total, self._parameters, strict=True):
                    if parameter.grad is not None:
                        sum_so_far.add_(factor * parameter.grad)
        for sum_so_far, parameter in zip(total, self._parameters, strict=True):
            parameter.grad = sum_so_far


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that hooks see no inputs that need gradients, which is so for the first trained layer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


def _norm(parameters: Sequence[Any]) -> Any:
    import torch

    return torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(each.grad) for each in parameters if each.grad is not None])
    )


def _batches(examples: Sequence[Example], most: int) -> Iterator[Sequence[Example]]:
    """*examples* by length, so that little is padded."""
    ordered = sorted(examples, key=lambda each: len(each.ids))
    return (ordered[start : start + most] for start in range(0, len(ordered), most))
