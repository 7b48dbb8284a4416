"""From a prompt to a decision and its attempts: hops 1 to 5 of a request, without calling any backend."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import ConfigError, NoEligibleBackend, RequestRejected
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.health import Health, HealthProbe, RetryBudget
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.limits import DEFAULT_DEADLINE_S, Defaults
from hybrid_llm.core.protocols import Backend, HealthAware, SessionAware, estimate_tokens
from hybrid_llm.core.request import GenerateOptions, Location, PartialAnswer, Prompt, Request, RequestMetadata
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.policies import Policy, PolicySource, Resilience
from hybrid_llm.router.cache import AnswerCache, Cache, Replay
from hybrid_llm.router.execution.answer import Answer, Parse
from hybrid_llm.router.execution.attempts import Attempts, Sleep
from hybrid_llm.router.execution.hedging import OneByOne, Race
from hybrid_llm.router.observability.hooks import ClientStatus, Hook, RequestEvent, attach, detach, emit, with_members
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.request import make_request, parser_of
from hybrid_llm.router.signals import Sensors
from hybrid_llm.router.signals.predictor import PRIORS, LatencyPredictor, Measured, metered
from hybrid_llm.router.signals.store import PredictionStore
from hybrid_llm.router.spending.charge import Charge, Spending
from hybrid_llm.router.spending.ledger import Ledger, Price

_EXACT_COUNT_LIMIT: Final = 65_536
_WINDOW_UNKNOWN: Final = 2**31 - 1

Opener = Callable[[Backend, Cleared], AsyncGenerator[Chunk, None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A request that is judged and decided, not yet sent anywhere. Only the guard's *assessment* holds its texts."""

    assessment: Assessment
    metadata: RequestMetadata
    signals: Signals
    decision: Decision
    policy: Policy
    parse: Parse = None


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the client: what is asked, and how its backends are opened and its pauses made."""

    routed: Routed
    open_stream: Opener
    sleep: Sleep


class Pipeline:
    """Guard, signals, policy, attempts: what one client needs for each of its requests."""

    def __init__(
        self,
        backends: Sequence[Backend],
        policies: PolicySource,
        *,
        sensors: Sensors,
        detectors: Iterable[Detector],
        hooks: Sequence[Hook],
        defaults: Defaults,
        prices: Mapping[str, float | Price],
        ledger: Ledger | None = None,
        predictions: PredictionStore | None = None,
        cache: Cache | None = None,
        guard: PrivacyGuard | None = None,
        attempts: type[Attempts] = Attempts,
    ) -> None:
        self.backends = {backend.name: backend for backend in backends}
        if len(self.backends) != len(backends) or not backends:
            raise ConfigError("give at least one backend, and each its own name")
        self._policies = policies
        self._sensors = sensors
        self._guard = guard or PrivacyGuard(detectors)
        self._make_attempts = attempts
        self._hooks = tuple(hooks)
        self._defaults = defaults
        self._spending = Spending(prices, ledger)
        self._spending.check(policies.current.objectives)
        self._kept = AnswerCache(cache, self._guard)
        self._predictors = {b.name: LatencyPredictor(PRIORS[b.location]) for b in backends}
        self._predictions = predictions
        self._resume_predictions()
        self._counter = next((b for b in backends if b.location is Location.EDGE), None)
        self._configured_for = policy = policies.current
        self._breakers = {backend.name: _health(backend, policy.resilience) for backend in backends}
        self._budgets = {name: RetryBudget(ratio=policy.resilience.retry_budget) for name in self.backends}
        self._recent = {name: FirstTokenTimes() for name in self.backends}
        attach(self._hooks, self.vitals)

    def route(self, prompt: Prompt, options: GenerateOptions) -> Routed:
        """Do hops 1 to 4. Raises InvalidRequest, or TypeError for an option that does not exist."""
        policy = self._policies.current
        self._adopt(policy)
        deadline = policy.objectives.deadline_s or DEFAULT_DEADLINE_S
        request = make_request(prompt, options, self._defaults, deadline=deadline, count=self._count)
        assessment = self._guard.assess(request, policy)
        try:
            return self._decided(assessment, policy, parser_of(options.get("output_schema")))
        except BaseException:
            self._guard.release(assessment)
            raise

    def _decided(self, assessment: Assessment, policy: Policy, parse: Parse) -> Routed:
        metadata = RequestMetadata.of(assessment.request)
        signals = without(assessment.blocked, self.snapshot(metadata))
        decision = policy.decide(metadata, signals)
        return Routed(
            assessment=assessment, metadata=metadata, signals=signals, decision=decision, policy=policy, parse=parse
        )

    def _adopt(self, policy: Policy) -> None:
        if policy is self._configured_for:
            return
        self._configured_for, limits = policy, policy.resilience
        for budget in self._budgets.values():
            budget.configure(ratio=limits.retry_budget)
        for breaker in self._breakers.values():
            breaker.configure(failures=limits.breaker_failures, open_s=limits.breaker_open_s)

    def _count(self, request: Request) -> int:
        """Exact while that is quick; for what is far too long for a device an estimate says enough.

        Only a backend on the device is asked: nothing is cleared yet.
        """
        characters = sum(len(message.content) for message in request.messages)
        if self._counter is None or characters > _EXACT_COUNT_LIMIT:
            return estimate_tokens(request)
        return self._counter.count_tokens(request)

    def snapshot(self, request: RequestMetadata) -> Signals:
        """What is known now: samples taken beside the requests, and every backend's state with predictions."""
        device, network = self._sensors.read()
        states = {name: self._state(backend, request) for name, backend in self.backends.items()}
        signals = Signals(device=device, network=network, backends=states)
        return self._spending.with_budget(signals, request, self._policies.current.objectives)

    def vitals(self) -> ClientStatus:
        """How everything stands now."""
        policy, nothing = self.policy, RequestMetadata()
        return ClientStatus(
            signals=with_members(self.snapshot(nothing), self.backends.values()),
            policy=policy.name,
            digest=policy.digest,
            objectives=policy.objectives,
            models={name: backend.capabilities.model for name, backend in self.backends.items()},
            retries_left={name: budget.left for name, budget in self._budgets.items()},
            spent=self._spending.spent,
            currency=self._spending.currency,
        )

    def _state(self, backend: Backend, request: RequestMetadata) -> BackendState:
        predictor, state = self._predictors[backend.name], backend.state()
        ttft_ms, tpot_ms = predictor.ttft_ms(request.prompt_tokens, state), predictor.tpot_ms(request.prompt_tokens)
        return replace(
            state,
            context_window=state.context_window or _WINDOW_UNKNOWN,
            breaker=self._breakers[backend.name].breaker,
            predicted_ttft_ms=ttft_ms,
            predicted_tpot_ms=tpot_ms,
            predicted_ttft_error_ms=predictor.ttft_error_ms(ttft_ms),
            predicted_tpot_error_ms=predictor.tpot_error_ms(tpot_ms),
            predictions=predictor.predictions,
            cost_per_1k_tokens=self._spending.cost_per_1k(backend.name, request),
        )

    def may_hedge(self, routed: Routed) -> bool:
        """Whether a silent backend may get a hedge: the policy says after how long, and there is another one."""
        limits, states = routed.policy.resilience, routed.signals.backends
        nodes = sum(states[name].nodes for name in routed.decision.order)
        return nodes > 1 and (limits.hedge_after_s or limits.hedge_quantile) is not None

    def answer(self, routed: Routed, open_stream: Opener, sleep: Sleep, race: Callable[[], Race] = OneByOne) -> Answer:
        """Make the attempts of hop 5; they begin with the first chunk that is asked for.

        Raises:
            NoEligibleBackend: the decision has nobody.
        """
        if not routed.decision.order:
            self.release(routed)
            self._tell_nobody(routed)
            reasons = "; ".join(f"{name}: {why}" for name, why in routed.decision.excluded.items())
            raise NoEligibleBackend(f"no backend is eligible: {reasons}", decision=routed.decision)
        kept = self._kept.answer(routed.assessment, routed.decision.order[0])
        if kept is not None:
            self.release(routed)
            replay = Replay(metadata=routed.metadata, decision=routed.decision, answer=kept)
            return Answer(replay, routed.signals, hooks=self._hooks, over=_ignore, parse=routed.parse)
        attempts = self._attempts(routed, open_stream, sleep, race)
        over = partial(self._over, routed)
        return Answer(attempts, routed.signals, hooks=self._hooks, over=over, parse=routed.parse)

    def _tell_nobody(self, routed: Routed) -> None:
        """The hooks learn of a request for which nobody is eligible too."""
        error = NoEligibleBackend.__name__
        emit(
            self._hooks,
            RequestEvent(metadata=routed.metadata, signals=routed.signals, decision=routed.decision, error=error),
        )

    def _attempts(self, routed: Routed, open_stream: Opener, sleep: Sleep, race: Callable[[], Race]) -> Attempts:
        limits, call = routed.policy.resilience, _Call(routed, open_stream, sleep)

        def open_backend(name: str, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
            if given.text:
                return self._open_behind(call, self.backends[name], given)
            return self._open(call, routed.assessment, self.backends[name])

        return self._make_attempts(
            metadata=routed.metadata,
            decision=routed.decision,
            open_stream=open_backend,
            sleep=sleep,
            breakers=self._breakers,
            budget=self._budgets[routed.decision.order[0]],
            retries=limits.retries,
            nodes={name: state.nodes for name, state in routed.signals.backends.items() if state.nodes > 1},
            is_ready=lambda name: self.backends[name].state().ready,
            continue_streams=limits.continue_streams,
            race=race,
            patience=partial(self._patience, limits),
        )

    def _open(
        self, call: _Call, assessment: Assessment, backend: Backend, given_tokens: int = 0
    ) -> AsyncGenerator[Chunk, None]:
        """Start a backend with the form that its place may see, timed and paid; the answer gets its values back."""
        routed, request = call.routed, assessment.request
        charge = Charge(
            backend=backend.name,
            tenant=request.tenant,
            prompt_tokens=request.prompt_tokens + given_tokens,
            max_tokens=request.max_tokens,
        )
        chunks = call.open_stream(backend, self._guard.clear(assessment, backend.location))
        chunks = metered(chunks, partial(self._learn, charge, routed.signals.backends[backend.name]))
        chunks = self._spending.charged(chunks, charge, routed.policy.objectives, call.sleep)
        return self._guard.restore(assessment, backend.location, chunks)

    async def _open_behind(self, call: _Call, backend: Backend, given: PartialAnswer) -> AsyncGenerator[Chunk, None]:
        """Start a backend behind what was given, which is judged anew: what one place wrote may not go to another."""
        assessment = self._guard.assess_continuation(call.routed.assessment, given, call.routed.policy)
        try:
            if backend.location not in assessment.allowed:
                text = f"{backend.name} may not see what the answer holds so far"
                raise RequestRejected(text, backend=backend.name, reason="unsupported")
            async with aclosing(self._open(call, assessment, backend, given.tokens)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._guard.release(assessment)

    def _patience(self, limits: Resilience, name: str) -> float | None:
        """Seconds of silence after which *name* gets a hedge."""
        if limits.hedge_quantile is None:
            return limits.hedge_after_s
        usual = self._recent[name].quantile(limits.hedge_quantile)
        return None if usual is None else usual / 1e3

    def _over(self, routed: Routed, generation: Generation | None) -> None:
        try:
            if generation is not None:
                self._kept.keep(routed.assessment, routed.policy, generation)
        finally:
            self.release(routed)

    def release(self, routed: Routed) -> None:
        """The request is over, or was only decided: forget what its pseudonyms stood for."""
        self._guard.release(routed.assessment)

    def _learn(self, charge: Charge, state: BackendState, measured: Measured) -> None:
        predictor = self._predictors[charge.backend]
        if measured.ttft_ms is None:
            predictor.missed(charge.prompt_tokens, state, after_ms=measured.elapsed_ms)
        else:
            self._recent[charge.backend].add(measured.ttft_ms)
            predictor.observe(
                charge.prompt_tokens,
                state,
                ttft_ms=measured.ttft_ms,
                tpot_ms=measured.tpot_ms,
                computed=measured.computed,
            )

    def _resume_predictions(self) -> None:
        """Let every backend begin from what is kept of it."""
        for name, predictor in self._predictors.items():
            learned = self._predictions.load(name) if self._predictions is not None else None
            if learned is not None:
                predictor.resume(learned)

    @property
    def policy(self) -> Policy:
        """The policy that decides now."""
        return self._policies.current

    def forget(self, session_id: str, tenant: str | None) -> None:
        """A session is over: wipe its pseudonyms, and what the device's model has read of it."""
        self._guard.forget(session_id, tenant)
        for backend in self.backends.values():
            if isinstance(backend, SessionAware):
                backend.forget(session_id, tenant)

    def close(self) -> None:
        """Stop the sampler and the watcher, wipe pseudonyms and cache, close the ledger, keep what was learnt."""
        self._sensors.close()
        self._policies.close()
        self._guard.close()
        self._spending.close()
        if self._predictions is not None:
            for name, predictor in self._predictors.items():
                self._predictions.keep(name, predictor)
        detach(self._hooks, self.vitals)
        self._kept.close()


def _ignore(*_: object) -> None:
    """Nothing is to be done after an answer that was kept."""


def without(barred: Mapping[Location, str], signals: Signals) -> Signals:
    """The signals, with the backends of places that the guard has barred not ready, and its reasons."""
    if not barred:
        return signals
    states = {
        name: replace(state, ready=False, reason=barred[state.location]) if state.location in barred else state
        for name, state in signals.backends.items()
    }
    return replace(signals, backends=states)


def _health(backend: Backend, limits: Resilience) -> Health:
    """The backend's own health, made of that of its endpoints; for any other backend one that its calls report to."""
    failures, open_s = limits.breaker_failures, limits.breaker_open_s
    if not isinstance(backend, HealthAware):
        return HealthProbe(failures=failures, open_s=open_s)
    backend.endpoint_health.configure(failures=failures, open_s=open_s)
    return backend.endpoint_health
