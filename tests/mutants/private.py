"""Planted faults of private tuning: more of a record gets into the model than the bound says, or the bound is wrong."""

from __future__ import annotations

from tests.mutants.changes import never, swap
from tests.mutants.mutant import Mutant

_ROOM = "hybrid_llm.prepare.privacy"

MUTANTS = (
    Mutant(
        "records are not clipped",
        f"{_ROOM}.clipping:RecordClipping._add",
        swap("factors * each_loss", "each_loss"),
    ),
    Mutant(
        "the gradients of the pass that finds norms are added too",
        f"{_ROOM}.clipping:RecordClipping._add",
        swap("for parameter, sum_so_far in zip(self._parameters, before, strict=True): ...", "pass"),
    ),
    Mutant(
        "persons are not clipped",
        f"{_ROOM}.clipping:UnitClipping.add",
        swap("factor * parameter.grad", "parameter.grad"),
    ),
    Mutant(
        "ghost clipping counts a shared weight once",
        f"{_ROOM}.clipping:RecordClipping.__init__",
        never("how is Clipping.GHOST and shared and _shares_trained(model)"),
    ),
    Mutant(
        "the noise does not grow with the norm",
        f"{_ROOM}.loop:_add_noise",
        swap("plan.noise_multiplier * plan.max_grad_norm", "plan.noise_multiplier"),
    ),
    Mutant(
        "the noise is that of a mean",
        f"{_ROOM}.loop:_add_noise",
        swap(
            "(clipped.double() + deviation * drawn) / plan.schedule.batch",
            "(clipped.double() + deviation * drawn / plan.schedule.batch) / plan.schedule.batch",
        ),
    ),
    Mutant("every step has the same noise", f"{_ROOM}.loop:make_step", swap("draws.noise(step)", "draws.noise(0)")),
    Mutant(
        "every step has the same units",
        f"{_ROOM}.loop:make_step",
        swap(
            "draws.sampled(step, plan.schedule.units, plan.schedule.rate)",
            "draws.sampled(0, plan.schedule.units, plan.schedule.rate)",
        ),
    ),
    Mutant(
        "the noise tells which units take part",
        f"{_ROOM}.noise:Stream.__init__",
        swap("purpose.to_bytes(2, 'big')", "bytes(2)"),
    ),
    Mutant(
        "the noise is half of what is accounted for",
        f"{_ROOM}.noise:Stream._summed",
        swap("np.sqrt(_SUMMED)", "_SUMMED"),
    ),
    Mutant("the budget is exceeded by a little", f"{_ROOM}.accounting:calibrated", swap("return high", "return low")),
    Mutant(
        "a delta that publishes a record is accepted",
        f"{_ROOM}.accounting:Schedule.check",
        never("not 0 < self.delta < 1 / self.units"),
    ),
    Mutant("a run goes on with the budget of another one", f"{_ROOM}.loop:Checkpoint.load", never("not matches")),
    Mutant(
        "a step after a checkpoint is made twice",
        f"{_ROOM}.loop:tune",
        swap("checkpoint.save(model, optimizer, step + 1)", "checkpoint.save(model, optimizer, step)"),
    ),
)
