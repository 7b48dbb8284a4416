"""The loop of private tuning: noisy steps, and checkpoints after which it goes on as if it had not been interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replacing
from hybrid_llm.prepare.privacy.accounting import Schedule
from hybrid_llm.prepare.privacy.clipping import Clipped, trained
from hybrid_llm.prepare.privacy.noise import Draws, Stream
from hybrid_llm.prepare.privacy.units import Unit
from hybrid_llm.prepare.step import Progress

_CHECKPOINT: Final = "checkpoint.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a run spends, fixed before its first step.

    Attributes:
        noise_multiplier: the deviation of the noise, in clipping norms.
        max_grad_norm: the clipping norm: the most that one unit adds to the gradient of a step.
        checkpoint_every: steps between two checkpoints.
    """

    schedule: Schedule
    noise_multiplier: float
    max_grad_norm: float
    learning_rate: float
    checkpoint_every: int = 20


def quieten(model: Any) -> None:
    """Switch off dropout, also where attention has its own: the noise regularises, and steps repeat exactly."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def tune(
    model: Any, clipped: Clipped, units: Sequence[Unit], plan: Plan, draws: Draws, scratch: Path, progress: Progress
) -> None:
    """Make the steps of *plan* that *scratch* does not hold yet.

    No step is made twice with other random numbers, and none beyond the plan, whatever happens in between.

    Raises:
        ConfigError: the checkpoint belongs to another plan or is damaged, a disk is full, or the loss is not a number.
    """
    import torch

    parameters = [each for _, each in trained(model)]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=0.0)
    checkpoint = Checkpoint(scratch / _CHECKPOINT, plan)
    model.train()
    schedule = plan.schedule
    for step in range(checkpoint.load(model, optimizer), schedule.steps):
        progress("tuning privately", step / schedule.steps)
        make_step(step, parameters, optimizer, clipped, units, plan, draws)
        if (step + 1) % plan.checkpoint_every == 0:
            checkpoint.save(model, optimizer, step + 1)
    progress("tuning privately", 1.0)


def make_step(
    step: int,
    parameters: Sequence[Any],
    optimizer: Any,
    clipped: Clipped,
    units: Sequence[Unit],
    plan: Plan,
    draws: Draws,
) -> None:
    """Make one step of *plan*, with the numbers that belong to it. ConfigError if the gradient is not a number."""
    for each in parameters:
        each.grad = None
    clipped.add([units[number] for number in draws.sampled(step, plan.schedule.units, plan.schedule.rate)])
    _add_noise(parameters, plan, draws.noise(step))
    optimizer.step()


def _add_noise(parameters: Sequence[Any], plan: Plan, noise: Stream) -> None:
    """Make the noisy mean of the clipped gradients, over the expected number of units, never the true one."""
    import torch

    deviation = plan.noise_multiplier * plan.max_grad_norm
    for each in parameters:
        drawn = torch.from_numpy(noise.normal(each.numel())).view_as(each)
        clipped = torch.zeros_like(each) if each.grad is None else each.grad
        each.grad = ((clipped.double() + deviation * drawn) / plan.schedule.batch).to(each.dtype)
        if not bool(torch.isfinite(each.grad).all()):
            raise ConfigError("the gradient is not a number any more: choose a smaller `learning_rate`")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after some steps, in a file that is replaced as a whole; it belongs to one plan."""

    path: Path
    plan: Plan

    def save(self, model: Any, optimizer: Any, steps: int) -> None:
        """Write the state after *steps* steps. ConfigError if it cannot be written; the last one then stays."""
        import torch

        state = {
            "plan": asdict(self.plan),
            "steps": steps,
            "weights": {name: each.detach() for name, each in trained(model)},
            "optimizer": optimizer.state_dict(),
        }
        try:
            with replacing(self.path, sync=True) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            reason = getattr(error, "strerror", None) or "the disk may be full"
            message = f"{self.path} cannot be written ({reason}): free space, and run again to go on from the last one"
            raise ConfigError(message, path=str(self.path)) from error

    def load(self, model: Any, optimizer: Any) -> int:
        """Restore the state if there is one; the number of steps that it has behind it.

        Raises:
            ConfigError: it is damaged, or of another plan, whose budget would be spent on top.
        """
        if not self.path.exists():
            return 0
        import torch

        try:
            state: Mapping[str, Any] = torch.load(self.path, weights_only=True)
            matches = state["plan"] == asdict(self.plan)
        except Exception as error:  # torch raises errors of pickle, of zip and of its own
            message = f"{self.path} is damaged: delete its folder, and tune from the beginning"
            raise ConfigError(message, path=str(self.path)) from error
        if not matches:
            message = (
                f"{self.path} is of a run with other data or options: going on would spend more than its budget;"
                " delete its folder, and tune from the beginning"
            )
            raise ConfigError(message, path=str(self.path))
        with torch.no_grad():
            for name, each in trained(model):
                each.copy_(state["weights"][name])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["steps"])
