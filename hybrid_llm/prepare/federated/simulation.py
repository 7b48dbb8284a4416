"""The step `federate-simulation`: many clients in one process, each with a part of one data folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import Number, key
from hybrid_llm.prepare.data.folder import DATA_NAME, DataFolder
from hybrid_llm.prepare.federated.app import client_app
from hybrid_llm.prepare.federated.learner import Budget, Learner
from hybrid_llm.prepare.federated.options import Federation, put_weights, weights_of
from hybrid_llm.prepare.federated.roster import InProcess
from hybrid_llm.prepare.federated.rounds import moved, round_of
from hybrid_llm.prepare.privacy.units import examples
from hybrid_llm.prepare.step import DATA, Input, Makes, Outcome, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class FederateSimulation(Federation):
    """Try a federated tuning in one process, before anybody is asked to take part."""

    makes: ClassVar[Makes] = Makes.MODEL

    data: Input = key(DATA, "Data whose split `train` is dealt out to the clients; `test` measures the model.")
    target_epsilon: float | None = key(
        Number(0.01, 1000), "The privacy budget of each client for its records; by default none.", default=None
    )

    def run(self, work: Work) -> Outcome:
        """Make all rounds, and leave the model.

        Raises:
            ConfigError: an option is unusable, or there are fewer records than clients.
        """
        subject, base = self.subject(work)
        offer = self.offer(subject, base)
        data = DataFolder.open(work.path(self.data))
        held_out = examples(data, "test", subject.encoding) if data.card.splits.get("test") else []
        before, weights = subject.metrics(held_out), weights_of(subject)
        budget = None if self.target_epsilon is None else Budget(target_epsilon=self.target_epsilon)
        learners = []
        for number, part in enumerate(_dealt(data, self.clients, work.scratch)):
            scratch = work.scratch / f"client{number}"
            scratch.mkdir(exist_ok=True)
            learners.append(Learner(offer, work.path(self.model), part, scratch, budget, work.seed + number))
        apps = {1 + number: client_app(offer, each, least=3) for number, each in enumerate(learners)}
        for number in range(self.rounds):
            work.progress(f"round {number + 1} of {self.rounds}", number / self.rounds)
            mean = round_of(InProcess(apps), offer, number + 1, weights, 1.0)
            if mean is None:
                raise ConfigError(f"round {number + 1} gave no update: choose a smaller `learning_rate`")
            weights = moved(weights, mean, offer, None)
        put_weights(subject, weights)
        after = subject.metrics(held_out)
        subject.save(work.out, merge=True)
        bound = {"epsilon": learners[0].spent.epsilon} if learners[0].spent else {}
        return Outcome(metrics={**after, **bound}, before=before, card={"federated": {"simulated": self.clients}})


def _dealt(data: DataFolder, clients: int, scratch: Path) -> Iterator[Path]:
    """The records of `train`, one after the other to each client, as data folders."""
    if data.card.splits.get("train", 0) < clients:
        raise ConfigError(f"{data.path} has fewer records in `train` than there are clients", path=str(data.path))
    for number in range(clients):
        part = scratch / f"part{number}"
        part.mkdir(exist_ok=True)
        count = 0
        with (part / "train.jsonl").open("w", encoding="utf-8") as file:
            for index, record in enumerate(data.records("train")):
                if index % clients == number:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
                    count += 1
        (part / DATA_NAME).write_text(replace(data.card, splits={"train": count}).to_json(), encoding="utf-8")
        yield part
