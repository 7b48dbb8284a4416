"""The backends of a client with their state, predictions, health and retry budgets, read as `Signals`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from hybrid_llm.core.decision import UNKNOWN_WINDOW
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.health import Health, HealthProbe, RetryBudget
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.log import Repeated, breaker_log
from hybrid_llm.core.protocols import Backend, Expiring, HealthAware, MultiEndpoint, SessionAware
from hybrid_llm.core.request import Location, Request, RequestMetadata, Sampling, estimate_tokens
from hybrid_llm.core.signals import BackendState, DeviceSignals, EndpointState, NetworkSignals, Signals
from hybrid_llm.core.taskform import unserved
from hybrid_llm.core.tracebacks import guarded
from hybrid_llm.policies import Objectives, Policy, Resilience
from hybrid_llm.policies.document import Percentile
from hybrid_llm.router.observability.hooks import ClientStatus
from hybrid_llm.router.signals import Sensors
from hybrid_llm.router.signals.predictor import PRIORS, LatencyPredictor, Measured
from hybrid_llm.router.signals.store import PredictionStore
from hybrid_llm.router.spending.charge import Spending

_log = logging.getLogger("hybrid_llm")

_EXACT_COUNT_LIMIT: Final = 65_536
_NEEDS: Final[tuple[tuple[str, str, Callable[[Request], bool]], ...]] = (
    ("logprobs", "it gives no log-probabilities", lambda request: request.logprobs is not None),
    ("penalties", "it follows no presence or frequency penalty", lambda request: request.sampling.penalises_answer),
)
"""Capabilities that not every request needs: why a backend without one is left out, and which requests need it."""


class Fleet:
    """The backends of one client. Safe to use from any thread.

    Args:
        backends: At least one, each with a name of its own, in the order of the configuration.
        policy: The policy in force, whose limits apply until `adopt` is called with another one.
        sensors: What reads device and network.
        spending: What prices and budgets add to the signals.
        predictions: Where predictors resume from and are stored on `close`.
        qualities: Backend -> task of a request -> quality of its answers, as they were evaluated.

    Raises:
        ConfigError: there is no backend, or two have the same name.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        policy: Policy,
        *,
        sensors: Sensors,
        spending: Spending,
        predictions: PredictionStore | None = None,
        qualities: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.backends = {backend.name: backend for backend in backends}
        if len(self.backends) != len(backends) or not backends:
            raise ConfigError("give at least one backend, and each its own name")
        self.spending = spending
        self._sensors = sensors
        self._policy = policy
        self._predictions = predictions
        self._qualities = qualities or {}
        self._predictors = {b.name: LatencyPredictor(PRIORS[b.location]) for b in backends}
        self._resume_predictions()
        self.health: dict[str, Health] = {b.name: _health(b, policy.resilience) for b in backends}
        self.retry_budgets = {name: RetryBudget(ratio=policy.resilience.retry_budget) for name in self.backends}
        self.first_token_times = {name: FirstTokenTimes() for name in self.backends}
        self._repeated = Repeated()  # a part that fails with each request is one WARNING a minute
        self._specialists = tuple([b for b in backends if _tasks_of(b)])
        general = (b for b in backends if b.location is Location.EDGE and b not in self._specialists)
        self._counter = next(general, None)
        self._warn_unsealed(policy)

    def adopt(self, policy: Policy) -> None:
        """Apply the limits of *policy*; what was counted under another one stays."""
        if policy is self._policy:
            return
        self._policy, limits = policy, policy.resilience
        for budget in self.retry_budgets.values():
            budget.configure(ratio=limits.retry_budget)
        for health in self.health.values():
            health.configure(failures=limits.breaker.failures, open_s=limits.breaker.open_s)
        self._warn_unsealed(policy)

    def _warn_unsealed(self, policy: Policy) -> None:
        """Log the tags that lead nowhere but to the device, because nothing seals."""
        tags = ", ".join(sorted(name for name, rule in policy.tags.items() if rule.sealed))
        clouds = [backend for backend in self.backends.values() if backend.location is Location.CLOUD]
        if tags and clouds and not any(self._state_of(backend).sealed for backend in clouds):
            _log.warning("tag %s goes to the cloud only sealed, and no backend seals: it stays on the device", tags)

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt: exact where the device has the tokenizer and the prompt is short, else an estimate."""
        # Only a backend on the device may see the texts here: nothing is cleared for the cloud yet.
        characters = sum([len(message.content) for message in request.messages])
        if self._counter is None or characters > _EXACT_COUNT_LIMIT:
            return estimate_tokens(request)
        counting = partial(self._counter.count_tokens, request)
        counted = guarded(counting, f"counting tokens on {self._counter.name}", self._repeated.failed)
        return counted if isinstance(counted, int) and counted >= 0 else estimate_tokens(request)

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The signals for one request: samples taken beside the requests, and the state of every backend. No I/O."""
        device, network = self._read_sensors()
        states = {name: self._state(backend, metadata) for name, backend in self.backends.items()}
        signals = Signals(device=device, network=network, backends=states)
        if not self.spending.prices and objectives.budget is None:
            return signals
        return self.spending.with_costs(signals, metadata, objectives)

    def fitted(self, request: Request, signals: Signals) -> Signals:
        """*signals* with each specialist marked as one for *request*, or not ready for it, with the reason."""
        if not self._specialists:
            return signals
        states = dict(signals.backends)
        for backend in self._specialists:
            reason, state = unserved(request, _tasks_of(backend)), states[backend.name]
            if not reason:
                states[backend.name] = replace(state, specialist=True)
            elif state.ready:
                states[backend.name] = replace(state, ready=False, reason=reason)
        return replace(signals, backends=states)

    def _read_sensors(self) -> tuple[DeviceSignals, NetworkSignals]:
        """What the sensors report; nothing is known where they fail."""
        read: Any = guarded(self._sensors.read, "reading the sensors", self._repeated.failed)
        match read:
            case DeviceSignals() as device, NetworkSignals() as network:
                return device, network
            case _:
                return DeviceSignals(), NetworkSignals()

    def _state(self, backend: Backend, metadata: RequestMetadata) -> BackendState:
        predictor, state, tokens = self._predictors[backend.name], self._state_of(backend), metadata.prompt_tokens
        ttft_ms, tpot_ms = predictor.ttft_ms(tokens, state), predictor.tpot_ms(tokens)
        return replace(
            state,
            context_window=state.context_window or UNKNOWN_WINDOW,
            breaker=self.health[backend.name].breaker,
            predicted_ttft_ms=ttft_ms,
            predicted_tpot_ms=tpot_ms,
            predicted_ttft_error_ms=predictor.ttft_error_ms(ttft_ms),
            predicted_tpot_error_ms=predictor.tpot_error_ms(tpot_ms),
            predictions=predictor.predictions,
            quality=self._quality(state, metadata.task),
        )

    def _quality(self, state: BackendState, task: str) -> float | None:
        known = self._qualities.get(state.name)
        return state.quality if known is None else known.get(task)

    def _state_of(self, backend: Backend) -> BackendState:
        """The state of *backend*; not ready where it does not report one."""
        state = guarded(backend.state, f"reading the state of {backend.name}", self._repeated.failed)
        if isinstance(state, BackendState):
            return state
        return BackendState(
            name=backend.name, location=backend.location, ready=False, reason="its state cannot be read"
        )

    def status(self) -> ClientStatus:
        """Everything at this instant, for metrics and people: the signals of an empty request, and each endpoint."""
        policy = self._policy
        signals = self.snapshot(RequestMetadata(), policy.objectives)
        pools = [backend for backend in self.backends.values() if isinstance(backend, MultiEndpoint)]
        members = {pool.name: guarded(pool.members, f"the members of {pool.name}") or () for pool in pools}
        states = {name: _for_people(state, members.get(name, ())) for name, state in signals.backends.items()}
        return ClientStatus(
            signals=replace(signals, backends=states),
            policy=policy.name,
            digest=policy.digest,
            objectives=policy.objectives,
            models={name: _model_of(backend) for name, backend in self.backends.items()},
            retries_left={name: budget.left for name, budget in self.retry_budgets.items()},
            spent=self.spending.spent,
            currency=self.spending.currency,
            expiries={
                name: guarded(backend.expiries, f"the expiries of {name}") or {}
                for name, backend in self.backends.items()
                if isinstance(backend, Expiring)
            },
        )

    def is_ready(self, name: str) -> bool:
        """Whether the backend reports that it can be called."""
        return self._state_of(self.backends[name]).ready

    def hedge_delay(self, limits: Resilience, name: str) -> float | None:
        """Seconds after which a call of *name* without a first token is hedged; None while that is not known."""
        if not isinstance(limits.hedge_after, Percentile):
            return limits.hedge_after
        usual_ms = self.first_token_times[name].quantile(limits.hedge_after)
        return None if usual_ms is None else usual_ms / 1e3

    def learn(self, name: str, prompt_tokens: int, state: BackendState, measured: Measured) -> None:
        """Take in how long a call of *name* took that was made in *state*."""
        predictor = self._predictors[name]
        if measured.ttft_ms is None:
            predictor.missed(prompt_tokens, state, after_ms=measured.elapsed_ms)
            return
        self.first_token_times[name].add(measured.ttft_ms)
        predictor.observe(
            prompt_tokens,
            state,
            ttft_ms=measured.ttft_ms,
            tpot_ms=measured.tpot_ms,
            computed=measured.computed,
        )

    def _resume_predictions(self) -> None:
        for name, predictor in self._predictors.items():
            learned = self._predictions.load(name) if self._predictions is not None else None
            if learned is not None:
                predictor.resume(learned)

    def notice(self, task: str, signals: Signals, name: str) -> str:
        """What a reader must know of an answer of the backend *name* to a request with *task*, decided by *signals*."""
        backend = self.backends[name]
        own = guarded(lambda: backend.capabilities.notice, f"reading the capabilities of {name}") or ""
        passed = () if _tasks_of(backend) else self._passed_over(task, signals)
        return "; ".join(filter(None, (own, *passed)))

    def _passed_over(self, task: str, signals: Signals) -> Iterator[str]:
        """The specialists in *task* that could not take the request, in whose place a generator answered."""
        for backend in self._specialists:
            state = signals.backends[backend.name]
            if task in _tasks_of(backend) and not state.ready:
                reason = state.reason or "it is not ready"
                yield f"{backend.name}, which serves the task {task}, was not asked: {reason}"

    def lacking(self, request: Request) -> dict[str, str]:
        """The backends that lack a capability that *request* needs, each with a reason for people."""
        needed = [(name, reason) for name, reason, needs in _NEEDS if needs(request)]
        return {
            backend.name: reason
            for name, reason in reversed(needed)
            for backend in self.backends.values()
            if not self._has(backend, name)
        }

    def follows(self, name: str) -> bool:
        """Whether the backend *name* follows the priority that a request asks for."""
        return self._has(self.backends[name], "priorities")

    def _has(self, backend: Backend, capability: str) -> bool:
        reading = f"reading the capabilities of {backend.name}"
        return guarded(lambda: getattr(backend.capabilities, capability), reading, self._repeated.failed) is True

    def model(self, name: str) -> str:
        """The model of the backend *name*, with its version where that is known; empty until a node reports it."""
        backend = self.backends[name]
        known = guarded(lambda: backend.capabilities, f"reading the capabilities of {name}", self._repeated.failed)
        return f"{known.model} {known.revision}" if known is not None else ""

    def is_greedy(self, name: str, sampling: Sampling) -> bool:
        """Whether the backend *name* is greedy under *sampling*, by its model where no temperature is named."""
        if sampling.temperature != 0.0 or "temperature" in sampling.explicit:
            return sampling.temperature == 0.0
        backend = self.backends[name]
        return guarded(lambda: backend.capabilities.draws, f"reading the capabilities of {name}") is False

    def forget(self, session_id: str, tenant: str | None) -> None:
        """Drop what backends on this device hold of a session."""
        for backend in self.backends.values():
            if isinstance(backend, SessionAware):
                guarded(partial(backend.forget, session_id, tenant), f"forgetting a session on {backend.name}")

    def close(self) -> None:
        """Stop the sensors, close the ledger and store the predictions. The backends are the client's to close."""
        guarded(self._sensors.close, "closing the sensors")
        guarded(self.spending.close, "closing the ledger")
        if self._predictions is not None:
            for name, predictor in self._predictors.items():
                self._predictions.save_learned(name, predictor)


def _tasks_of(backend: Backend) -> Mapping[str, frozenset[str]]:
    """The tasks of a specialist; empty for a backend that serves any."""
    return guarded(lambda: backend.capabilities.tasks, f"reading the capabilities of {backend.name}") or {}


def _model_of(backend: Backend) -> str:
    return guarded(lambda: backend.capabilities.model, f"reading the capabilities of {backend.name}") or ""


def _for_people(state: BackendState, members: tuple[EndpointState, ...]) -> BackendState:
    """*state* with its endpoints; a context window that no node has reported is 0, as in `BackendState`."""
    window = 0 if state.context_window == UNKNOWN_WINDOW else state.context_window
    return replace(state, members=members, context_window=window)


def _health(backend: Backend, limits: Resilience) -> Health:
    """The backend's own health where its endpoints report their calls, else a probe that the attempts report to."""
    if not isinstance(backend, HealthAware):
        breaker = limits.breaker
        return HealthProbe(failures=breaker.failures, open_s=breaker.open_s, on_breaker=breaker_log(backend.name))
    health = backend.endpoint_health
    health.configure(failures=limits.breaker.failures, open_s=limits.breaker.open_s)
    return health


def without(blocked: Mapping[Location, str], signals: Signals) -> Signals:
    """*signals* with the backends of *blocked* locations not ready, and the guard's reason for each."""
    if not blocked:
        return signals
    located = {name: state.location for name, state in signals.backends.items()}
    return unable({name: blocked[where] for name, where in located.items() if where in blocked}, signals)


def unable(reasons: Mapping[str, str], signals: Signals) -> Signals:
    """*signals* with the backends that *reasons* names not ready, each for its reason."""
    if not reasons:
        return signals
    states = {
        name: replace(state, ready=False, reason=reasons[name]) if name in reasons else state
        for name, state in signals.backends.items()
    }
    return replace(signals, backends=states)
