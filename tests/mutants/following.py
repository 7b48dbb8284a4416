"""Planted faults of following an alias: a bad version stays, a good one is dropped, or a request with its model."""

from __future__ import annotations

from tests.mutants.changes import drop, drop_argument, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_FOLLOWER = "hybrid_llm.backends.following.follower:Follower"
_BACKEND = "hybrid_llm.backends.following.backend"
_TRIAL = "hybrid_llm.backends.following.trial"

MUTANTS = (
    Mutant("failures end no trial", f"{_TRIAL}:judge", never("found.failed > allowed")),
    Mutant(
        "a busy backend counts as a bad version",
        f"{_BACKEND}:_Measured.end",
        swap("not isinstance(error, BackendOverloaded | RequestRejected)", "True"),
    ),
    Mutant(
        "a bad version is not taken back",
        f"{_FOLLOWER}._give_up",
        drop("if trial.previous in self._model.versions: ..."),
    ),
    Mutant(
        "a bad version comes back after a restart",
        f"{_FOLLOWER}._give_up",
        drop("self._remember(self._state.read().refuse(trial.version, reason))"),
    ),
    Mutant("a version that ends the process is begun for ever", f"{_FOLLOWER}.first", never("trial.is_exhausted")),
    Mutant(
        "during a trial the next version returns to the one on trial",
        f"{_FOLLOWER}._begun",
        never("running is not None"),
    ),
    Mutant(
        "the good version is deleted while another one is on trial",
        f"{_FOLLOWER}._switch",
        drop_argument("activate", "before"),
    ),
    Mutant("versions are followed without their signature", f"{_FOLLOWER}._switch", drop_argument("pull", "trust")),
    Mutant(
        "a replaced model is closed under its requests",
        f"{_BACKEND}:FollowingBackend.replace",
        swap("old if not old.active else None", "old"),
    ),
    Mutant(
        "the first request that ends closes the model of the others",
        f"{_BACKEND}:FollowingBackend._leave",
        drop_operand("not served.active"),
    ),
    Mutant(
        "the same devices get every new version first",
        "hybrid_llm.backends.following.plan:position",
        swap("f'{device}\\n{version}'", "device"),
    ),
    Mutant(
        "devices outside of a share get the new version",
        "hybrid_llm.backends.following.plan:assigned",
        never("position(device, current.version) >= current.share"),
    ),
)
