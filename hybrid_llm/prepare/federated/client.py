"""The step `join`: one client of a federated tuning, with data that does not leave its machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import ADDRESS, File, Flag, Number, Text, Whole, duration, key
from hybrid_llm.prepare.federated.app import client_app
from hybrid_llm.prepare.federated.attend import Attendance
from hybrid_llm.prepare.federated.flower import open_flower
from hybrid_llm.prepare.federated.keys import Signer
from hybrid_llm.prepare.federated.learner import Budget, Learner
from hybrid_llm.prepare.federated.offer import Offer
from hybrid_llm.prepare.hub_folder import work_offline
from hybrid_llm.prepare.privacy.units import RECORD
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Take part in a federated tuning: what leaves this machine is the update of LoRA weights, and nothing else."""

    makes: ClassVar[Makes] = Makes.REPORT

    server: str = key(ADDRESS, "The server, HOST:PORT.")
    model: Input = key(MODEL, "This machine's copy of the base model.")
    data: Input = key(DATA, "The data, with the split `train`; it stays here.")
    tls: Path = key(File("a folder of certificates"), "The folder with `ca.pem` and this client's certificate.")
    certificate: str = key(Text("a name"), "The name of this client's certificate in it.")
    accept_plain: bool = key(
        Flag(), "Whether to take part where the server can read this client's update by itself.", default=False
    )
    hide_among: int = key(
        Whole(2),
        "With secure aggregation, the least clients that begin a round; of 2, each can compute the other's update.",
        default=3,
    )
    target_epsilon: float | None = key(
        Number(0.01, 1000), "This client's privacy budget over all rounds (DP-SGD); by default none.", default=None
    )
    delta: float | None = key(
        Number(1e-15, 1), "The probability with which that bound may fail; by default 0.1 / units.", default=None
    )
    unit: str = key(
        Text("`record`, or a key of the records"),
        "What is protected: `record`, or a person, by the key of the records that says whose they are.",
        default=RECORD,
    )
    max_grad_norm: float = key(Number(1e-6), "The clipping norm of private steps.", default=1.0)
    patience: float = key(duration(), "How long an unreachable server is tried.", default=60.0)

    def run(self, work: Work) -> Outcome:
        """Take part to the end, and write down what was sent.

        Raises:
            ConfigError: the offer, a task, the data or the certificates cannot be accepted.
            AuthenticationFailed, PermissionDenied: the server does not accept this client.
            BackendUnavailable: the server cannot be reached.
            UntrustedPeer: the server passes on keys that other clients have not signed.
        """
        work_offline("peft", *(["opacus", "dp_accounting"] if self.target_epsilon else []))
        open_flower()
        learners: list[Learner] = []
        tls = TLSFiles.from_dir(self.tls, self.certificate)
        signer = Signer.open(tls)

        def prepare(offer: Offer) -> Callable[[Any], Any]:
            learners[:] = [self._learner(offer, work)]
            return client_app(offer, learners[0], least=self.hide_among, signer=signer)

        attendance = Attendance(
            target=self.server,
            tls=tls,
            prepare=prepare,
            patience=self.patience,
        )
        attendance.run()
        bound = learners[0].spent if learners else None
        results = {
            "tasks": attendance.tasks,
            "sent_mb": attendance.sent / 1e6,
            "received_mb": attendance.received / 1e6,
            **({"epsilon": bound.epsilon} if bound else {}),
        }
        card = {"privacy": {"unit": self.unit, "delta": learners[0].delta, **asdict(bound)}} if bound else {}
        text = json.dumps({**results, **card}, indent=2) + "\n"
        (work.out / "results.json").write_text(text, encoding="utf-8")
        return Outcome(metrics=results, card=card)

    def _learner(self, offer: Offer, work: Work) -> Learner:
        if not offer.secure and not self.accept_plain:
            message = (
                "the server would read this client's update by itself: agree by `accept_plain: true`, or stay away"
            )
            raise ConfigError(message)
        budget = None
        if self.target_epsilon is not None:
            budget = Budget(
                target_epsilon=self.target_epsilon,
                delta=self.delta,
                unit=self.unit,
                max_grad_norm=self.max_grad_norm,
            )
        paths = work.path(self.model), work.path(self.data)
        return Learner(offer, *paths, work.scratch, budget, work.seed, work.progress)
