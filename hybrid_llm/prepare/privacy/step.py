"""The step `tune-private`: a classifier or a decoder, whole or by LoRA, tuned with differential privacy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from hybrid_llm.core.fields import Choice, Flag, ListOf, Number, Text, Whole, key
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.hub_folder import ModelKind, work_offline
from hybrid_llm.prepare.privacy.accounting import Accountant, Schedule, Spent, calibrated, spent
from hybrid_llm.prepare.privacy.clipping import Clipped, Clipping, RecordClipping, UnitClipping
from hybrid_llm.prepare.privacy.loop import Plan, tune
from hybrid_llm.prepare.privacy.noise import Draws, Randomness
from hybrid_llm.prepare.privacy.subject import Lora, Subject
from hybrid_llm.prepare.privacy.units import RECORD, Unit, examples, kind_of, units
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work

_CHECKED: Final = 4
"""Records whose gradients are compared with those of opacus before the first step."""
NOT_COVERED: Final = (
    "the data that the base model was trained on",
    "the choice of options by trying several: each try on the same data spends its own epsilon",
    "the validation split, by which this step reports its metrics",
    "what earlier steps learnt from the data, such as duplicates taken out",
    "the number of units, which is taken as public",
    "other records of the same person, unless `unit` names the key that says whose a record is",
    "the data folder, the scratch folder while the step runs, and the machine itself",
)
"""What the bound does not protect, for the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunePrivate:
    """Tune a model with differential privacy (DP-SGD), so that no single record, or person, can be found in it."""

    makes: ClassVar[Makes] = Makes.MODEL

    model: Input = key(MODEL, "The model to tune: a classifier for labelled data, a decoder for text and chats.")
    data: Input = key(DATA, "The data, with the split `train`; packed blocks are refused, since they mix records.")
    target_epsilon: float = key(Number(0.01, 1000), "The privacy budget: epsilon is at most this.")
    delta: float | None = key(
        Number(1e-15, 1), "The probability with which the bound may fail; by default 0.1 / units.", default=None
    )
    unit: str = key(
        Text("`record`, or a key of the records"),
        "What is protected: `record`, or a person, by the key of the records that says whose they are.",
        default=RECORD,
    )
    unit_records: int = key(Whole(1, 1000), "Records that are used of one person.", default=8)
    max_grad_norm: float = key(Number(1e-6), "The clipping norm: the most that one unit adds to a step.", default=1.0)
    accountant: str = key(Choice.of(*Accountant), "What computes epsilon; another checks it.", default=Accountant.PRV)
    randomness: str = key(
        Choice.of(*Randomness),
        "Where noise comes from; `seeded` repeats a run exactly, and protects from nobody who has the seed.",
        default=Randomness.SECURE,
    )
    clipping: str = key(
        Choice.of(*Clipping), "How gradients of records are clipped; `ghost` takes less memory.", default=Clipping.GHOST
    )
    epochs: float = key(Number(0.01, 10_000), "How often a unit takes part on average.", default=3.0)
    batch: int = key(Whole(1), "Units in a step on average: large batches need less noise.", default=64)
    together: int = key(Whole(1, 4096), "Records that are computed at once; memory, not privacy.", default=16)
    learning_rate: float = key(Number(1e-8, 1), "The learning rate of AdamW.", default=5e-4)
    max_length: int = key(Whole(2, 1_000_000), "Tokens that are read of a record.", default=128)
    method: str = key(
        Choice.of("full", "lora"), "`full` changes all weights; `lora` adds small ones beside them.", default="full"
    )
    lora_rank: int = key(Whole(1, 4096), "The rank of LoRA.", default=16)
    lora_targets: tuple[str, ...] = key(
        ListOf(Text("the name of a layer"), single=True),
        "Layers that get LoRA; by default all linear ones.",
        default=(),
    )
    merge: bool = key(Flag(), "Whether the LoRA adapter is merged into the model.", default=True)
    every: int = key(Whole(1), "Steps between two checkpoints.", default=20)

    def run(self, work: Work) -> Outcome:
        """Tune; see `NOT_COVERED` for what the bound does not protect.

        Raises:
            ConfigError: an input or option is unusable, the budget cannot be kept, or the model cannot be clipped.
        """
        work_offline("opacus", "dp_accounting", *(["peft"] if self.method == "lora" else []))
        data = DataFolder.open(work.path(self.data))
        kind = kind_of(data)
        subject = Subject.open(
            work.path(self.model),
            work.scratch,
            kind=kind,
            labels=data.card.labels if kind is ModelKind.CLASSIFIER else (),
            most=self.max_length,
            lora=Lora(self.lora_rank, self.lora_targets) if self.method == "lora" else None,
            seed=work.seed,
        )
        found = units(data, "train", subject.encoding, self.unit, self.unit_records)
        schedule = self.schedule(len(found))
        multiplier = calibrated(Accountant(self.accountant), schedule, self.target_epsilon)
        bound = spent(Accountant(self.accountant), schedule, multiplier)
        plan = Plan(
            schedule=schedule,
            noise_multiplier=multiplier,
            max_grad_norm=self.max_grad_norm,
            learning_rate=self.learning_rate,
            checkpoint_every=self.every,
        )
        held_out = examples(data, "validation", subject.encoding) if data.card.splits.get("validation") else []
        before, weights = subject.metrics(held_out), subject.weights  # a merged adapter trains nothing
        tune(subject.model, self._clipped(subject, found), found, plan, self._draws(work), work.scratch, work.progress)
        after = subject.metrics(held_out)
        subject.save(work.out, merge=self.merge)
        card = {
            "privacy": self._privacy(schedule, multiplier, bound),
            "training": {"learning_rate": self.learning_rate, "optimizer": "AdamW", "trained_weights": weights},
        }
        return Outcome(metrics={**after, "epsilon": bound.epsilon, "delta": schedule.delta}, before=before, card=card)

    def _privacy(self, schedule: Schedule, multiplier: float, bound: Spent) -> dict[str, Any]:
        """The section of the card."""
        return {
            "mechanism": "DP-SGD (Abadi et al. 2016): Gaussian noise on clipped gradients of Poisson samples",
            "unit": self.unit,
            "neighbours": "data sets of which one has one unit more (add or remove)",
            **asdict(bound),
            "target_epsilon": self.target_epsilon,
            **asdict(schedule),
            "sample_rate": schedule.rate,
            "noise_multiplier": multiplier,
            "max_grad_norm": self.max_grad_norm,
            "clipping": self.clipping if self.unit == RECORD else "per unit",
            "randomness": self.randomness,
            "not_covered": list(NOT_COVERED),
        }

    def schedule(self, count: int) -> Schedule:
        """The steps over *count* units. ConfigError if they are fewer than a batch, or delta is too large."""
        steps = max(1, math.ceil(self.epochs * count / self.batch))
        delta = 0.1 / count if self.delta is None else self.delta
        schedule = Schedule(units=count, batch=self.batch, steps=steps, delta=delta)
        schedule.check()
        return schedule

    def _draws(self, work: Work) -> Draws:
        if self.randomness == Randomness.SEEDED:
            return Draws.seeded(work.seed)
        return Draws.kept(work.scratch / "noise.key")

    def _clipped(self, subject: Subject, found: Sequence[Unit]) -> Clipped:
        model, norm, padding = subject.model.train(), self.max_grad_norm, subject.padding
        if self.unit != RECORD:
            return UnitClipping(model, norm, padding, self.together)
        records = RecordClipping(model, Clipping(self.clipping), norm, padding, self.together)
        records.check([unit[0] for unit in found[:_CHECKED]])
        return records
