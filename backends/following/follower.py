"""Looks at an alias of a registry now and then, fetches its version, and takes it back if its trial fails."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from hybrid_llm.backends.edge.store import ModelStore
from hybrid_llm.backends.following.keys import FollowSpec
from hybrid_llm.backends.following.plan import assigned
from hybrid_llm.backends.following.state import FollowState, StateFile, Trial, device_name
from hybrid_llm.backends.following.trial import Figures, Verdict, judge
from hybrid_llm.backends.models.registry.errors import NoSuchVersion
from hybrid_llm.backends.models.registry.records import SHORT
from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError
from hybrid_llm.core.log import log
from hybrid_llm.core.threads import started

if TYPE_CHECKING:
    from hybrid_llm.backends.models.registry import ModelRegistry
    from hybrid_llm.backends.models.registry.device import DeviceModel
    from hybrid_llm.backends.signing.trust import Trust

_JITTER: Final = 0.1


class Replaceable(Protocol):
    """What answers with a version, and can be given another one."""

    @property
    def version(self) -> str:
        """The short digest of the version that answers."""

    @property
    def figures(self) -> Figures:
        """What its requests have shown."""

    @property
    def problem(self) -> str:
        """Why it is not ready; empty if it is."""

    def replace(self, folder: Path, version: str) -> None:
        """Answer with the model in *folder*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowStatus:
    """How a model follows its alias.

    Attributes:
        version: the short digest of what answers; empty for a model that came from elsewhere.
        on_trial: whether it does not count as good yet.
        refused: short digest of each version that failed here -> the reason.
        problem: why the last look at the registry brought nothing; empty if it did not fail.
    """

    version: str
    on_trial: bool
    refused: dict[str, str]
    problem: str


class Follower:
    """Follows an alias for *target*, which it does not keep alive."""

    def __init__(self, spec: FollowSpec, target: Replaceable, trust: Trust | None) -> None:
        from hybrid_llm.backends.models.registry.device import DeviceModel

        self._spec, self._target, self._trust = spec, weakref.ref(target), trust
        store = ModelStore()
        self._store, self._state = store, StateFile(store, spec.model)
        self._model: DeviceModel = DeviceModel(store, spec.model)
        self._registry: ModelRegistry | None = None
        self._wake, self._closed = threading.Event(), threading.Event()
        self._checking = threading.Lock()
        self._problem = ""
        self._trial: Trial | None = None
        self._refused: Mapping[str, str] = {}

    def first(self) -> tuple[str, Path | None]:
        """The version to begin with, and its folder; none where none has come yet.

        A version on trial with which several processes have begun, and none has come to the end of the trial, is taken
        for what ended them, and the version before comes back.
        """
        state = self._state.read()
        trial = state.trial
        if trial is not None and trial.version == self._model.current:
            self._trial = trial = replace(trial, starts=trial.starts + 1)
            if trial.is_exhausted:
                self._give_up(trial, _exhausted(trial))
            else:
                self._remember(replace(state, trial=trial))
        current = self._model.current
        return (current, self._model.folder(current)) if current else ("", None)

    def start(self) -> None:
        """Look at the registry from now on, in a thread of its own."""
        started(_run, weakref.ref(self), self._wake, name="hybrid-llm-follow")

    @property
    def status(self) -> FollowStatus:
        """How the model follows its alias."""
        target = self._target()
        return FollowStatus(
            version=target.version if target is not None else "",
            on_trial=self._trial is not None,
            refused={**self._state.read().refused, **self._refused},
            problem=self._problem,
        )

    def counted(self, version: str) -> None:
        """A request on *version* has ended, or it is not ready; wakes the thread if that ends the trial. Cheap."""
        trial, target = self._trial, self._target()
        if trial is None or target is None or version != trial.version:
            return
        if self._verdict(target, trial) is not None:
            self._wake.set()

    def check(self) -> None:
        """End a trial that can be judged, look where the alias points, and go there. Logs what fails, and never raises.

        One at a time; another call waits.
        """
        with self._checking:
            try:
                self._judge()
                self._follow()
                self._report("")
            except HybridLLMError as error:
                if not self.is_closed:
                    self._report(str(error))
            except Exception as error:  # noqa: BLE001  # whatever a storage answers, the next look is made
                self._report(f"it failed ({type(error).__name__})")

    def close(self) -> None:
        """Stop looking. Idempotent; does not wait for a look that runs."""
        self._closed.set()
        self._wake.set()

    @property
    def is_closed(self) -> bool:
        """Whether it has stopped."""
        return self._closed.is_set()

    def pause_s(self) -> float:
        """Seconds to the next look."""
        return self._spec.every_s * (1.0 + random.uniform(-_JITTER, _JITTER))  # noqa: S311  # spreads devices

    def _judge(self) -> None:
        trial, target = self._trial, self._target()
        if trial is None or target is None or target.version != trial.version:
            return
        verdict = self._verdict(target, trial)
        if verdict is None:
            return
        if verdict.is_good:
            self._trial = None
            self._state.write(replace(self._state.read(), trial=None))
            log.info("%s: version %s has passed its trial", self._spec.model, trial.version)
        else:
            self._give_up(trial, verdict.reason)

    def _verdict(self, target: Replaceable, trial: Trial) -> Verdict | None:
        problem = target.problem
        return Verdict(problem) if problem else judge(target.figures, trial.before, self._spec.trial)

    def _give_up(self, trial: Trial, reason: str) -> None:
        """Never try this version again on this device, and let the one before count for every process of it."""
        text = "%s: version %s is taken back for %s: %s"
        log.warning(text, self._spec.model, trial.version, trial.previous or "none", reason)
        self._trial, self._refused = None, {**self._refused, trial.version: reason}
        self._remember(self._state.read().refuse(trial.version, reason))
        if trial.previous in self._model.versions:
            self._model.activate(trial.previous)

    def _remember(self, state: FollowState) -> None:
        """Store *state*. Where it cannot be stored, as on a full disk, this process goes on by what it knows."""
        try:
            self._state.write(state)
        except HybridLLMError as error:
            log.warning("%s: the state of its trial cannot be stored: %s", self._spec.model, error)

    def _follow(self) -> None:
        target = self._target()
        if target is None or self.is_closed:
            return
        current, refused = self._model.current, {**self._state.read().refused, **self._refused}
        if target.version in refused and current != target.version:  # by this process, or by another one
            target.replace(self._model.folder(current), current)
            self._trial = None
        wanted = self._wanted()
        if wanted and wanted[:SHORT] != target.version and wanted[:SHORT] not in refused:
            self._switch(target, wanted)

    def _wanted(self) -> str:
        """The digest of the version that this device should run; empty for none yet."""
        name, alias = self._spec.model, self._spec.alias
        latest = self._opened().alias(name, alias)
        if latest is None:
            raise NoSuchVersion(f"{self._spec.registry} has no alias `{alias}` of `{name}`: promote a version to it")
        device = self._spec.device or device_name(self._store)
        return assigned(latest, device, lambda number: self._opened().entry(name, alias, number))

    def _switch(self, target: Replaceable, digest: str) -> None:
        """Fetch a version and answer with it, on trial; a process that ends at any point leaves a whole one in use."""
        registry = self._opened()
        version = registry.version(self._spec.model, digest)
        self._model.pull(registry, version, trust=self._trust, report=self._go_on)
        trial = self._begun(version.short, target)
        if trial.is_exhausted:
            return self._give_up(replace(trial, previous=""), _exhausted(trial))
        self._state.write(replace(self._state.read(), trial=trial))  # before it is loaded: that may end the process
        try:
            target.replace(self._model.folder(version.short), version.short)
        except BackendUnavailable:  # closed meanwhile
            return None
        except HybridLLMError as error:
            self._state.write(self._state.read().refuse(version.short, f"it cannot be loaded: {error}"))
            raise
        self._model.activate(version.short, before=trial.previous)
        self._trial = trial if trial.previous else None  # there is nothing to go back to from the first version
        if self._trial is None:
            self._state.write(replace(self._state.read(), trial=None))
        log.info("%s: version %s answers now; before, it was %s", version.name, version.short, trial.previous or "none")
        return None

    def _go_on(self, step: str, share: float) -> None:  # noqa: ARG002  # the signature of a report
        """End a pull once nobody needs it any more."""
        if self.is_closed:
            raise BackendUnavailable("the backend is closed", backend=self._spec.model, reason="closed")

    def _begun(self, version: str, target: Replaceable) -> Trial:
        """The trial of *version*: beside the last good one, also if another one is on trial now."""
        stored, running = self._state.read().trial, self._trial
        starts = stored.starts + 1 if stored is not None and stored.version == version else 1
        if running is not None:
            return Trial(version=version, previous=running.previous, before=running.before, starts=starts)
        return Trial(version=version, previous=target.version, before=target.figures, starts=starts)

    def _opened(self) -> ModelRegistry:
        from hybrid_llm.backends.models.registry import ModelRegistry

        if self._registry is None:
            self._registry = ModelRegistry.open(self._spec.registry, key_file=self._spec.key_file)
        return self._registry

    def _report(self, problem: str) -> None:
        """Log a problem once, and its end."""
        if problem and problem != self._problem:
            log.warning("%s cannot follow %s: %s", self._spec.model, self._spec.alias, problem)
        elif self._problem and not problem:
            log.info("%s follows %s again", self._spec.model, self._spec.alias)
        self._problem = problem


def _exhausted(trial: Trial) -> str:
    return f"{trial.starts - 1} processes ended while it was on trial"


def _run(follower: weakref.ref[Follower], wake: threading.Event) -> None:
    """Look again and again, until the follower is closed or garbage."""
    while (one := follower()) is not None and not one.is_closed:
        one.check()
        pause_s = one.pause_s()
        del one
        wake.wait(pause_s)
        wake.clear()
