"""What a client does with its own data: some steps from the common weights, plainly or with differential privacy."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.federated.offer import Arrays, Offer, base_digest
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.privacy.accounting import Accountant, Schedule, Spent, calibrated, spent
from hybrid_llm.prepare.privacy.clipping import Clipped, Clipping, RecordClipping, UnitClipping, losses, trained
from hybrid_llm.prepare.privacy.loop import Plan, make_step
from hybrid_llm.prepare.privacy.noise import Draws
from hybrid_llm.prepare.privacy.subject import Lora, Subject
from hybrid_llm.prepare.privacy.units import RECORD, Unit, kind_of, units
from hybrid_llm.prepare.step import Progress

_LARGEST_NORM: Final = 1.0
_CHECKED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The privacy that a client spends over all rounds, by its own choice: of its records, or of its persons."""

    target_epsilon: float
    delta: float | None = None
    unit: str = RECORD
    unit_records: int = 8
    max_grad_norm: float = 1.0


class Learner:
    """One client's model and data."""

    def __init__(
        self,
        offer: Offer,
        model: Path,
        data: Path,
        scratch: Path,
        budget: Budget | None,
        seed: int,
        progress: Progress = lambda what, share: None,  # noqa: ARG005
    ) -> None:
        """Load *model* and *data* for *offer*.

        Raises:
            ConfigError: they are not those that the offer is for, or the budget cannot be kept.
        """
        folder = DataFolder.open(data)
        kind = kind_of(folder)
        _check(offer, HubFolder.open(model), folder, kind)
        self._subject = Subject.open(
            model,
            scratch,
            kind=kind,
            labels=offer.labels,
            most=offer.max_length,
            lora=Lora(offer.lora_rank, offer.lora_targets),
            seed=seed,
        )
        if tuple((name, tuple(each.shape)) for name, each in trained(self._subject.model)) != offer.tensors:
            raise ConfigError("the server tunes other weights than this model has: install the same versions")
        self._offer, self._seed, self._progress = offer, seed, progress
        self._parameters = [each for _, each in trained(self._subject.model)]
        chosen = budget or Budget(target_epsilon=math.inf)
        self._units = units(folder, "train", self._subject.encoding, chosen.unit, chosen.unit_records)
        self._private = Private.prepared(offer, budget, self._subject, self._units, scratch) if budget else None

    @property
    def spent(self) -> Spent | None:
        """What all rounds together spend; None without a budget."""
        return self._private.bound if self._private else None

    @property
    def delta(self) -> float | None:
        """The delta of what is spent."""
        return self._private.plan.schedule.delta if self._private else None

    def learn(self, number: int, weights: Arrays) -> Arrays:
        """Tune from *weights* in round *number*; returns how they change.

        Raises:
            ConfigError: they are not those of the offer, or the budget is spent.
        """
        import torch

        self._offer.check(weights)
        self._progress(f"round {number} of {self._offer.rounds}", (number - 1) / self._offer.rounds)
        with torch.no_grad():
            for each, given in zip(self._parameters, weights, strict=True):
                each.copy_(torch.from_numpy(np.array(given, dtype=np.float32)))
        self._subject.model.train()
        optimizer = torch.optim.AdamW(self._parameters, lr=self._offer.learning_rate, weight_decay=0.0)
        if self._private:
            self._private.steps(self._parameters, optimizer, self._units)
        else:
            self._plain(number, optimizer)
        update = [each.detach().numpy() - given for each, given in zip(self._parameters, weights, strict=True)]
        return clipped(update, self._offer.update_norm) if self._offer.update_norm else update

    def _plain(self, number: int, optimizer: Any) -> None:
        import torch

        examples = [example for unit in self._units for example in unit]
        drawn = random.Random(f"{self._seed} {number}")  # noqa: S311  # which records come first is no secret
        for _ in range(_steps(self._offer, len(examples))):
            batch = drawn.sample(examples, min(self._offer.batch, len(examples)))
            with native:
                optimizer.zero_grad()
                losses(self._subject.model, batch, self._subject.padding).mean().backward()
                torch.nn.utils.clip_grad_norm_(self._parameters, _LARGEST_NORM)
                optimizer.step()


@dataclass(frozen=True, slots=True, kw_only=True)
class Private:
    """Private steps over all rounds, each of which is made once, whatever happens to this process."""

    plan: Plan
    bound: Spent
    each_round: int
    add: Clipped
    draws: Draws
    ledger: Path

    @classmethod
    def prepared(cls, offer: Offer, budget: Budget, subject: Subject, found: Sequence[Unit], scratch: Path) -> Private:
        """Plan the steps of all rounds. ConfigError if the budget cannot be kept, or is that of another plan."""
        each_round = _steps(offer, len(found))
        delta = 0.1 / len(found) if budget.delta is None else budget.delta
        schedule = Schedule(units=len(found), batch=offer.batch, steps=offer.rounds * each_round, delta=delta)
        schedule.check()
        noise = calibrated(Accountant.PRV, schedule, budget.target_epsilon)
        plan = Plan(
            schedule=schedule,
            noise_multiplier=noise,
            max_grad_norm=budget.max_grad_norm,
            learning_rate=offer.learning_rate,
        )
        return cls(
            plan=plan,
            bound=spent(Accountant.PRV, schedule, noise),
            each_round=each_round,
            add=_clipping(budget, subject, found, offer),
            draws=Draws.kept(scratch / "noise.key"),
            ledger=scratch / "spent.json",
        )

    def steps(self, parameters: Sequence[Any], optimizer: Any, found: Sequence[Unit]) -> None:
        """Make the steps of a round, after they are written down as spent. ConfigError if none are left."""
        first = self._spent()
        last = first + self.each_round
        if last > self.plan.schedule.steps:
            message = "the privacy budget is spent: take part with other data, or with a new budget on top"
            raise ConfigError(message, path=str(self.ledger))
        _write(self.ledger, json.dumps({"steps": last, "plan": repr(self.plan)}))
        for step in range(first, last):
            make_step(step, parameters, optimizer, self.add, found, self.plan, self.draws)

    def _spent(self) -> int:
        if not self.ledger.exists():
            return 0
        found = read_json(self.ledger)
        if found["plan"] != repr(self.plan):
            message = f"{self.ledger} is of a run with other data or options, whose budget would be spent on top"
            raise ConfigError(message, path=str(self.ledger))
        return int(found["steps"])


def clipped(update: Arrays, norm: float) -> Arrays:
    """*update*, scaled so that its L2 norm is at most *norm*."""
    length = math.sqrt(sum(float(np.square(each, dtype=np.float64).sum()) for each in update))
    factor = min(1.0, norm / max(length, 1e-12))
    return [(each * factor).astype(np.float32) for each in update]


def _steps(offer: Offer, count: int) -> int:
    return max(1, math.ceil(offer.epochs * count / offer.batch))


def _clipping(budget: Budget, subject: Subject, found: Sequence[Unit], offer: Offer) -> Clipped:
    model, together = subject.model.train(), min(16, offer.batch)
    if budget.unit != RECORD:
        return UnitClipping(model, budget.max_grad_norm, subject.padding, together)
    records = RecordClipping(model, Clipping.GHOST, budget.max_grad_norm, subject.padding, together)
    records.check([unit[0] for unit in found[:_CHECKED]])
    return records


def _check(offer: Offer, model: HubFolder, data: DataFolder, kind: ModelKind) -> None:
    if base_digest(model.weights) != offer.base:
        message = f"{model.path} has other weights than the server's model: give all clients the same one"
        raise ConfigError(message, path=str(model.path))
    labels = set(data.card.labels) if kind is ModelKind.CLASSIFIER else set()
    if labels != set(offer.labels):
        message = f"{data.path} has other labels than the server tunes for: prepare it with `labels` of the server"
        raise ConfigError(message, path=str(data.path))


def _write(path: Path, text: str) -> None:
    try:
        replace_text(path, text, sync=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}", path=str(path)) from error
