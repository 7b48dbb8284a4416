"""A small training loop, which goes on from its last checkpoint after a kill and ends in the same model."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.step import Progress

Loss = Callable[[Any, int], Any]
"""The loss of a model at a step, as a scalar tensor; a function of the step and the seed only."""
_CHECKPOINT: Final = "checkpoint.pt"
_EVERY_S: Final = 60.0
"""Seconds between checkpoints."""
_WARMUP: Final = 0.1
"""Share of the steps in which the learning rate rises."""
_LEAST_RATE: Final = 0.05
"""Share of the learning rate that the last step has."""
_CLIP: Final = 1.0
"""Most length of a gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train: a linear rise, then half a cosine."""

    steps: int
    learning_rate: float
    seed: int
    precision: str = "fp32"
    """`bf16` multiplies in half precision; the weights stay in single, and so does what a loss does with logits."""

    def rate(self, step: int) -> float:
        """The learning rate of *step*, which counts from 0."""
        warm = max(1, round(self.steps * _WARMUP))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        share = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (_LEAST_RATE + (1 - _LEAST_RATE) * (1 + math.cos(math.pi * share)) / 2)


def train(model: Any, loss: Loss, schedule: Schedule, scratch: Path, progress: Progress) -> Mapping[str, float]:
    """Train *model* in place; return `loss_first` and `loss_last`, means over a tenth of the steps.

    Checkpoints are in *scratch*. A run that was killed goes on from the last one and has the same result.

    Raises:
        ConfigError: the loss is no number.
        NoSpace: a checkpoint does not fit on the disk.
    """
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.0)
    losses = _resumed(model, optimizer, scratch)
    model.train()
    saved = time.monotonic()
    for step in range(len(losses), schedule.steps):
        torch.manual_seed(schedule.seed * 1_000_003 + step)  # dropout is the same after a kill
        with multiplying_in(schedule.precision):
            value = loss(model, step)
        losses.append(_step(model, optimizer, value, schedule.rate(step)))
        progress("training", (step + 1) / schedule.steps)
        if time.monotonic() - saved > _EVERY_S:
            _save(model, optimizer, losses, scratch)
            saved = time.monotonic()
    model.eval()
    tenth = max(1, schedule.steps // 10)
    return {"loss_first": _mean(losses[:tenth]), "loss_last": _mean(losses[-tenth:])} if losses else {}


def multiplying_in(precision: str) -> AbstractContextManager[None]:
    """The context in which matrices are multiplied in *precision*, `fp32` or `bf16`; weights stay as they are."""
    import torch

    return cast("AbstractContextManager[None]", torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"))


def _step(model: Any, optimizer: Any, loss: Any, rate: float) -> float:
    import torch

    value = float(loss.detach())
    if not math.isfinite(value):
        raise ConfigError("training diverged, the loss is no number: use a lower learning_rate")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return value


def _save(model: Any, optimizer: Any, losses: list[float], scratch: Path) -> None:
    import torch

    scratch.mkdir(parents=True, exist_ok=True)
    partial = scratch / f".{_CHECKPOINT}.partial"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    try:
        torch.save(state, partial)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError where a disk is full
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        raise NoSpace(f"{scratch}: a checkpoint does not fit on the disk: free some space, then run it again") from None
    partial.replace(scratch / _CHECKPOINT)


def _resumed(model: Any, optimizer: Any, scratch: Path) -> list[float]:
    """Load the last checkpoint of *scratch*, if there is one; return the losses so far."""
    import torch

    path = scratch / _CHECKPOINT
    if not path.is_file():
        return []
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"])


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 5)
