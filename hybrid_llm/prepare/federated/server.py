"""The step `federate`: the server of a federated tuning, which never sees a record of a client."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np

from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.fields import ADDRESS, File, ListOf, Number, Text, Whole, duration, key
from hybrid_llm.core.files import replacing
from hybrid_llm.core.jsontext import parse_json
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.federated.offer import Arrays, Offer
from hybrid_llm.prepare.federated.options import Federation, put_weights, weights_of
from hybrid_llm.prepare.federated.roster import Grid, Roster
from hybrid_llm.prepare.federated.rounds import moved, round_of
from hybrid_llm.prepare.federated.vouching import VouchedGrid
from hybrid_llm.prepare.privacy.accounting import Accountant, Schedule, Spent, calibrated, spent
from hybrid_llm.prepare.privacy.noise import Draws
from hybrid_llm.prepare.privacy.units import examples
from hybrid_llm.prepare.step import DATA, Input, Makes, Outcome, Work

_log = logging.getLogger(__name__)
_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Federate(Federation):
    """Tune a model with clients that keep their data: only LoRA updates come here, and only their sum can be read."""

    makes: ClassVar[Makes] = Makes.MODEL

    address: str = key(ADDRESS, "Where clients connect, HOST:PORT.", default="127.0.0.1:8443")
    tls: Path = key(File("a folder of certificates"), "The folder of `hybrid-llm certs`, with `ca.pem`.")
    certificate: str = key(Text("a name"), "The name of the server's certificate in it.", default="node")
    allowed: tuple[str, ...] = key(
        ListOf(Text("a name")), "Names of client certificates; by default all of the authority.", default=()
    )
    min_clients: int = key(Whole(1), "Updates that a round needs; with fewer it is repeated.", default=2)
    patience: float = key(duration(), "How long clients are waited for.", default=600.0)
    round_timeout: float = key(duration(), "How long a client may take for a round.", default=3600.0)
    held_out: Input | None = key(DATA, "Data of the server's own, whose split `test` measures the model.", default=None)
    target_epsilon: float | None = key(
        Number(0.01, 1000), "Protect whole clients by noise on the sum: the budget. Needs `update_norm`.", default=None
    )
    delta: float | None = key(Number(1e-15, 1), "The probability with which that bound may fail.", default=None)

    def run(self, work: Work) -> Outcome:
        """Serve until all rounds are done, and leave the model.

        Raises:
            ConfigError: an option or file is unusable, clients do not come, or too many drop out.
        """
        subject, base = self.subject(work)
        offer = self.offer(subject, base)
        noise = self._noise()
        held_out = _held_out(self.held_out, work, subject)
        before = subject.metrics(held_out)
        state = State.opened(work.scratch / "rounds.npz", weights_of(subject))
        tls = TLSFiles.from_dir(self.tls, self.certificate)
        with Roster(self.address, tls, offer.to_json(), self.allowed, 2 * self.clients) as roster:
            work.progress(f"waiting for {self.clients} clients on port {roster.port}", 0.0)
            draws = Draws.kept(work.scratch / "noise.key")
            grid = VouchedGrid(roster, offer, tls.ca) if offer.secure else roster
            while state.rounds < self.rounds:
                roster.wait_for(self.clients if not state.rounds else self.min_clients, self.patience)
                work.progress(f"round {state.rounds + 1} of {self.rounds}", state.rounds / self.rounds)
                state = self._next(grid, offer, state, noise, draws)
        put_weights(subject, state.weights)
        after = subject.metrics(held_out)
        subject.save(work.out, merge=True)
        card = {"federated": self._facts(offer, state), "privacy": privacy_card(self, noise)}
        sizes = {"received_mb": roster.received / 1e6, "sent_mb": roster.sent / 1e6}
        return Outcome(metrics={**after, **sizes}, before=before, card=card)

    def _next(self, grid: Grid, offer: Offer, state: State, noise: Noise | None, draws: Draws) -> State:
        for _ in range(_TRIES):
            mean = round_of(grid, offer, state.rounds + 1, state.weights, self.round_timeout)
            if mean is not None and mean.clients >= self.min_clients:
                drawn = (noise.multiplier, draws.noise(state.rounds)) if noise else None
                return state.after(moved(state.weights, mean, offer, drawn), mean.clients)
            _log.warning("round %d had too few updates, and is repeated", state.rounds + 1)
        message = f"round {state.rounds + 1} failed {_TRIES} times: too many clients dropped out"
        raise ConfigError(f"{message}; run again to go on from here once they are back")

    def _noise(self) -> Noise | None:
        if self.target_epsilon is None:
            return None
        if not self.update_norm or self.delta is None:
            raise ConfigError("`target_epsilon` of the server needs `update_norm`, the most of one client, and `delta`")
        schedule = Schedule(units=self.clients, batch=self.clients, steps=self.rounds, delta=self.delta)
        schedule.check()
        multiplier = calibrated(Accountant.PRV, schedule, self.target_epsilon)
        return Noise(multiplier, spent(Accountant.PRV, schedule, multiplier), schedule)

    def _facts(self, offer: Offer, state: State) -> dict[str, Any]:
        return {
            "rounds": state.rounds,
            "clients": list(state.clients),
            "secure_aggregation": f"SecAgg+, threshold {offer.threshold}" if offer.secure else "none",
            "sent_by_clients": "LoRA weights and a classifier's head",
            "weights": sum(int(np.prod(shape)) for _, shape in offer.tensors),
        }


@dataclass(frozen=True, slots=True)
class Noise:
    """What protects whole clients."""

    multiplier: float
    bound: Spent
    schedule: Schedule


class Protected(Protocol):
    """Options that say how large one update can be."""

    @property
    def update_norm(self) -> float:
        """The L2 norm."""


def privacy_card(options: Protected, noise: Noise | None) -> dict[str, Any]:
    """The section of the card."""
    if noise is None:
        return {"server": "no noise of the server's; each client has its own budget, or none"}
    return {
        "mechanism": "Gaussian noise of the server on the sum of clipped updates (McMahan et al. 2018)",
        "unit": "client",
        "neighbours": "the same rounds with the update of one client replaced by zero",
        **asdict(noise.bound),
        **asdict(noise.schedule),
        "noise_multiplier": noise.multiplier,
        "update_norm": options.update_norm,
        "not_covered": ["the server, which adds the noise", "which clients take part", "clients that break the rules"],
    }


@dataclass(frozen=True, slots=True)
class State:
    """The weights after some rounds, and how many clients had a part in each; in a file that is replaced as a whole."""

    path: Path
    weights: Arrays
    clients: tuple[int, ...] = ()

    @property
    def rounds(self) -> int:
        """Rounds that are done."""
        return len(self.clients)

    @classmethod
    def opened(cls, path: Path, first: Arrays) -> State:
        """The state in *path*, or *first* if there is none. ConfigError if it is damaged."""
        if not path.exists():
            return cls(path, first)
        try:
            with np.load(path, allow_pickle=False) as file:
                clients = tuple(parse_json(str(file["clients"])))
                return cls(path, [file[f"weight{number}"] for number in range(len(first))], clients)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path} is damaged: delete its folder, and begin again", path=str(path)) from error

    def after(self, weights: Arrays, clients: int) -> State:
        """The next state, written. ConfigError if the disk is full."""
        state = State(self.path, weights, (*self.clients, clients))
        named: Mapping[str, Any] = {f"weight{number}": each for number, each in enumerate(weights)}
        try:
            with replacing(self.path) as file:
                np.savez(file, clients=np.array(json.dumps(state.clients)), **named)
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}", path=str(self.path)) from error
        return state


def _held_out(given: Input | None, work: Work, subject: Any) -> list[Any]:
    return examples(DataFolder.open(work.path(given)), "test", subject.encoding) if given else []
