"""The step `tune-private`: a classifier or a decoder, whole or by LoRA, tuned with differential privacy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Choice, Flag, ListOf, Number, Text, Whole, key
from hybrid_llm.core.lifetime import native
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.hub_folder import ModelKind, work_offline
from hybrid_llm.prepare.hub_gguf import open_for_work
from hybrid_llm.prepare.privacy.accounting import Accountant, Schedule, calibrated, spent
from hybrid_llm.prepare.privacy.clipping import Clipped, Clipping, RecordClipping, UnitClipping, outputs, trained
from hybrid_llm.prepare.privacy.loop import Plan, quieten, tune
from hybrid_llm.prepare.privacy.noise import Draws, Randomness
from hybrid_llm.prepare.privacy.units import RECORD, Encoding, Example, Unit, examples, kind_of, units
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
        subject = Subject.open(self, work, data)
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
        before = subject.metrics(held_out)
        tune(subject.model, self._clipped(subject, found), found, plan, self._draws(work), work.scratch, work.progress)
        after = subject.metrics(held_out)
        subject.save(work, merge=self.merge)
        card = {
            "privacy": {
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
            },
            "training": {"learning_rate": self.learning_rate, "optimizer": "AdamW", "trained_weights": subject.weights},
        }
        return Outcome(metrics={**after, "epsilon": bound.epsilon, "delta": schedule.delta}, before=before, card=card)

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


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that is tuned, and how records become its input."""

    model: Any
    encoding: Encoding
    kind: ModelKind

    @classmethod
    def open(cls, step: TunePrivate, work: Work, data: DataFolder) -> Subject:
        """Load the model of *step*, with LoRA where it asks for it. ConfigError if it cannot be tuned on *data*."""
        import torch

        kind = kind_of(data)
        folder = open_for_work(work.path(step.model), work.scratch)
        torch.manual_seed(work.seed)
        labels = data.card.labels if kind is ModelKind.CLASSIFIER else ()
        model = folder.model(kind, labels=labels, attn_implementation="eager")
        tokenizer = folder.tokenizer()
        model.config.pad_token_id = tokenizer.pad_token_id
        quieten(model)
        if step.method == "lora":
            model = with_lora(model, kind, step.lora_rank, step.lora_targets)
        return cls(model, Encoding(tokenizer=tokenizer, labels=data.card.labels, most=step.max_length), kind)

    @property
    def padding(self) -> int:
        """The token that fills up shorter rows."""
        return int(self.encoding.tokenizer.pad_token_id or 0)

    @property
    def weights(self) -> int:
        """How many weights are trained."""
        return sum(each.numel() for _, each in trained(self.model))

    def metrics(self, held_out: Sequence[Example]) -> Mapping[str, float]:
        """The mean loss over *held_out*, and the accuracy of a classifier; nothing where there are no examples."""
        import torch

        if not held_out:
            return {}
        self.model.eval()
        loss = correct = 0.0
        with torch.inference_mode(), native:
            for example in held_out:
                logits, target = outputs(self.model, [example], self.padding)
                loss += torch.nn.functional.cross_entropy(logits.flatten(0, -2), target.flatten()).item()
                correct += float((logits.argmax(dim=-1) == target).float().mean())
        found = {"loss": loss / len(held_out)}
        return found | ({"accuracy": correct / len(held_out)} if self.kind is ModelKind.CLASSIFIER else {})

    def save(self, work: Work, *, merge: bool) -> None:
        """Write the model, or its adapter, with the tokenizer. ConfigError if the disk is full."""
        model = self.model
        if merge and hasattr(model, "merge_and_unload"):
            model = model.merge_and_unload()
        try:
            model.save_pretrained(str(work.out))
            self.encoding.tokenizer.save_pretrained(str(work.out))
        except OSError as error:
            message = f"{work.out} cannot be written ({error.strerror}): free space, and run again"
            raise ConfigError(message, path=str(work.out)) from error


def with_lora(model: Any, kind: ModelKind, rank: int, targets: Sequence[str] = ()) -> Any:
    """*model* with low-rank matrices beside its linear layers (Hu et al. 2021); a classifier's head is tuned too.

    Raises:
        ConfigError: no layer has the name of a target.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    task = TaskType.SEQ_CLS if kind is ModelKind.CLASSIFIER else TaskType.CAUSAL_LM
    chosen = list(targets) or "all-linear"
    try:
        return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=chosen, task_type=task))
    except ValueError as error:
        message = f"LoRA cannot be added to the layers {', '.join(targets)}: name layers that the model has"
        raise ConfigError(message) from error
