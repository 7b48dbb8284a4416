"""The options that all steps of federated tuning share, and the offer that they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Flag, ListOf, Number, Text, Whole, key
from hybrid_llm.prepare.federated.offer import Arrays, Offer, base_digest
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind, work_offline
from hybrid_llm.prepare.privacy.clipping import trained
from hybrid_llm.prepare.privacy.subject import Lora, Subject
from hybrid_llm.prepare.step import MODEL, Input, Work

_FEWEST: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """What is tuned, and how."""

    model: Input = key(MODEL, "The base model, which every client has as a copy.")
    labels: tuple[str, ...] = key(
        ListOf(Text("a label")), "The labels of a classifier; a decoder is tuned where there are none.", default=()
    )
    rounds: int = key(Whole(1, 100_000), "How often the updates of the clients are averaged.", default=5)
    epochs: float = key(Number(0.001, 1000), "Passes of a client over its data in each round.", default=1.0)
    batch: int = key(Whole(1), "Records of a client in a step.", default=16)
    learning_rate: float = key(Number(1e-8, 1), "The learning rate of AdamW at the clients.", default=5e-4)
    max_length: int = key(Whole(2, 1_000_000), "Tokens that are read of a record.", default=128)
    lora_rank: int = key(Whole(1, 4096), "The rank of LoRA; no other weights are tuned or sent.", default=8)
    lora_targets: tuple[str, ...] = key(
        ListOf(Text("the name of a layer"), single=True),
        "Layers that get LoRA; by default all linear ones.",
        default=(),
    )
    clients: int = key(Whole(1, 1000), "How many clients take part.", default=_FEWEST)
    secure_aggregation: bool = key(
        Flag(), "Whether the server learns only the sum of the updates (SecAgg+); from 3 clients on.", default=True
    )
    update_norm: float = key(
        Number(0), "The most that one update moves the weights, as L2 norm; 0 is no limit.", default=0.0
    )

    def offer(self, subject: Subject, base: Path) -> Offer:
        """What clients are offered.

        Raises:
            ConfigError: there are too few of them for secure aggregation.
        """
        if self.secure_aggregation and self.clients < _FEWEST:
            message = "secure aggregation needs at least 3 clients, since of 2 each knows the other's update"
            raise ConfigError(f"{message}: set `clients: 3`, or `secure_aggregation: false`")
        return Offer(
            base=base_digest(base),
            labels=self.labels,
            tensors=tuple((name, tuple(each.shape)) for name, each in trained(subject.model)),
            rounds=self.rounds,
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            max_length=self.max_length,
            lora_rank=self.lora_rank,
            lora_targets=self.lora_targets,
            secure=self.secure_aggregation,
            threshold=self.clients // 2 + 1,
            update_norm=self.update_norm,
        )

    def subject(self, work: Work) -> tuple[Subject, Path]:
        """The model with its LoRA, and the folder of its base. ConfigError if it cannot be loaded."""
        work_offline("peft")
        folder = HubFolder.open(work.path(self.model))
        subject = Subject.open(
            folder.path,
            work.scratch,
            kind=ModelKind.CLASSIFIER if self.labels else ModelKind.CAUSAL,
            labels=self.labels,
            most=self.max_length,
            lora=Lora(self.lora_rank, self.lora_targets),
            seed=work.seed,
        )
        return subject, folder.weights


def weights_of(subject: Subject) -> Arrays:
    """The weights that are tuned."""
    return [each.detach().numpy().copy() for _, each in trained(subject.model)]


def put_weights(subject: Subject, weights: Arrays) -> None:
    """Give the model *weights*."""
    import torch

    with torch.no_grad():
        for (_, each), given in zip(trained(subject.model), weights, strict=True):
            each.copy_(torch.from_numpy(given))
