"""The path of a request on the app's side: hops 1 to 5, from the prompt to the attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import DeadlineExceeded, HybridLLMError, NoEligibleBackend
from hybrid_llm.core.limits import DEFAULT_DEADLINE_S, Defaults, RequestLimits
from hybrid_llm.core.protocols import DETECTOR_NAMES
from hybrid_llm.core.request import GenerateOptions, Location, Prompt, Request, RequestMetadata
from hybrid_llm.core.threads import Aside, at_once
from hybrid_llm.core.tracebacks import guarded
from hybrid_llm.policies import Policy, PolicySource, parse_policy
from hybrid_llm.router.caching.flights import Wakeup, thread_wakeup
from hybrid_llm.router.caching.guarded import GuardedCache, Replay
from hybrid_llm.router.execution.answer import Answer, Run
from hybrid_llm.router.execution.attempts import Attempts
from hybrid_llm.router.execution.call import BackendCalls, OneByOne, Opener, Parse, Race, Routed, Sleep
from hybrid_llm.router.fleet import Fleet, unable, without
from hybrid_llm.router.guardrails.rules import Guardrails
from hybrid_llm.router.observability.hooks import ClientStatus, Hook, Hooks, RequestEvent, emit
from hybrid_llm.router.output import CallCheck, OutputParser
from hybrid_llm.router.preview import Preview
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.request import Incoming, deadline_of, given_options, make_request, not_named


class Pipeline:
    """Guard, signals, policy and attempts, as one client needs them for each of its requests.

    Args:
        fleet: The backends and what is known of them.
        policies: Where the policy in force comes from.
        guard: The privacy guard; the only part that sees texts before a backend does.
        hooks: Notified once about each request.
        defaults: What a request gets where the call sets nothing.
        limits: How large a request may be.
        cache: Answers to repeated requests, or None.
        guardrails: What judges requests and answers, or None.
        attempts: How the attempts of a request are made.

    Raises:
        ConfigError: the policy counts in another currency than the prices, or several hooks trace.
    """

    def __init__(
        self,
        fleet: Fleet,
        policies: PolicySource,
        guard: PrivacyGuard,
        *,
        hooks: Sequence[Hook] = (),
        defaults: Defaults | None = None,
        limits: RequestLimits | None = None,
        cache: GuardedCache | None = None,
        guardrails: Guardrails | None = None,
        attempts: type[Attempts] = Attempts,
    ) -> None:
        fleet.spending.check(policies.current.objectives)
        self.fleet = fleet
        self._policies = policies
        self._guard = guard
        self.hooks: Final = Hooks(hooks)
        self.tracing: Final = self.hooks.tracing  # what follows each request, or None
        self._defaults = defaults or Defaults()
        self._limits = limits or RequestLimits()
        self._cache = cache
        self._guardrails = guardrails
        self._make_attempts = attempts
        self._policy = policies.current
        self._routed_under: Policy | None = None
        self._is_light = self._replaces = False
        self.hooks.attach(self.status)

    def add_hook(self, hook: Hook) -> None:
        """Call *hook*, too, about each request that is received from now on."""
        self.hooks.add(hook, self.status)

    @property
    def policy(self) -> Policy:
        """The policy in force; if its source fails, the last one that it returned."""
        policy = guarded(lambda: self._policies.current, "reading the policy")
        if isinstance(policy, Policy):
            self._policy = policy
        return self._policy

    def status(self) -> ClientStatus:
        """The state of the client now, for metrics and for people."""
        self.fleet.adopt(self.policy)
        saved = None if self._cache is None else self._cache.savings
        return replace(self.fleet.status(), cache=saved, audit_lost=self.hooks.lost)

    def is_quick(self, incoming: Incoming) -> bool:
        """Whether routing takes so little that it may run in an event loop.

        It does not for long texts, with detectors, guardrails or a cache of the app or models, with an audit log, with
        values of a session, and for the first request under a policy: it compiles rules and loads a tokenizer.
        """
        policy = self.policy
        if self._routed_under is not policy or not incoming.is_short or self.hooks.admitting:
            return False
        if self._cache is not None and not self._cache.is_quick:
            return False
        if self._guardrails is not None and not self._guardrails.is_quick:
            return False
        return self._is_light and (incoming.options.get("session_id") is None or not self._replaces)

    def route(self, prompt: Prompt, options: GenerateOptions) -> Routed:
        """Do as `receive` does, for a call that is made now."""
        return self.receive(Incoming(prompt=prompt, options=options))

    def receive(self, incoming: Incoming) -> Routed:
        """Do hops 1 to 4: make the request, assess it, read the signals, decide.

        Raises:
            InvalidRequest: an option is out of range, or a privacy tag is unknown.
            ContentRefused: a guardrail refuses what the request asks.
            TypeError: an option does not exist.
            DeadlineExceeded: the deadline passed meanwhile; *phase* is what was being done.
        """
        policy = self.policy
        self.fleet.adopt(policy)
        try:
            routed = self._route(incoming, policy)
            if self._guardrails is not None:
                self._judge(self._guardrails, routed, incoming)
        except BaseException as error:
            if incoming.trace is not None:
                incoming.trace.failed(error)
            if not isinstance(error, DeadlineExceeded) or error.phase:
                raise
        else:
            if self._routed_under is not policy:
                self._note(policy)
            return routed
        raise incoming.late()  # here, where the error that does not say during what is not its context

    def decide(self, incoming: Incoming) -> Decision:
        """Do as `receive` does; return the decision alone."""
        routed = self.receive(incoming)
        self.release(routed)
        return routed.decision

    def begin_trace(self, incoming: Incoming) -> None:
        """The trace of *incoming*, which will be answered, begins in the context of the caller."""
        if self.tracing is not None:
            incoming.trace = guarded(partial(self.tracing.begin_trace, incoming.created), "beginning a trace")

    def _route(self, incoming: Incoming, policy: Policy) -> Routed:
        request = self._request(incoming, policy)
        request.check_deadline()
        incoming.phase, trace = "the privacy scan", incoming.trace
        if trace is not None:
            trace.enter("guard")
        assessment = self._guard.assess(request, policy)
        try:
            request.check_deadline()
            incoming.phase = "routing"
            if trace is not None:
                trace.enter("decide")
            routed = self._decide(assessment, policy, incoming)
            request.check_deadline()
            if trace is not None:
                trace.routed(routed.metadata, routed.decision, assessment.allowed, self.fleet.backends)
        except BaseException:
            self._guard.release(assessment)
            raise
        return routed

    def _judge(self, guardrails: Guardrails, routed: Routed, incoming: Incoming) -> None:
        incoming.phase = "the guardrails"
        try:
            guardrails.check(routed.assessment.request, routed.metadata)
        except BaseException as error:
            self._ended(routed, error)
            raise

    def preview(self, incoming: Incoming, policy: Policy | None = None) -> Preview:
        """What would be decided under *policy*, by default the one in force, which stays in force. Raises as `receive`.

        Nothing is sent, and no backend or breaker is changed.
        """
        current = self.policy
        self.fleet.adopt(current)
        routed = self._route(incoming, policy or current)
        assessment = routed.assessment
        try:
            shown = None
            if Location.CLOUD in assessment.allowed:
                messages = assessment.request_for(Location.CLOUD).messages
                shown = tuple([message.content for message in messages])
            return Preview(
                decision=routed.decision,
                declared=assessment.declared,
                allowed=assessment.allowed,
                pseudonymised=assessment.pseudonymised is not None,
                replaced=assessment.replaced,
                shown=shown,
            )
        finally:
            self.release(routed)

    def parse_policy(self, text: str) -> Policy:
        """The policy in *text*, checked as one that this client would take.

        Raises:
            PolicyError: it is not valid; `.errors` has everything that is wrong.
            ConfigError: it counts in another currency than the prices.
        """
        policy = parse_policy(text, backends=self.policy.backends, detectors=self._guard.detector_names)
        self.fleet.spending.check(policy.objectives)
        return policy

    def set_deadline(self, incoming: Incoming) -> float:
        """Check the options' names; return the deadline in seconds, which everything else is subject to.

        Raises as `receive` does.
        """
        incoming.phase = "the checks"
        otherwise = self.policy.objectives.deadline_s or DEFAULT_DEADLINE_S
        incoming.deadline = deadline_of(given_options(incoming.options), self._defaults, otherwise)
        return incoming.deadline

    def _request(self, incoming: Incoming, policy: Policy) -> Request:
        incoming.phase = "the checks"
        deadline = policy.objectives.deadline_s or DEFAULT_DEADLINE_S
        request = make_request(
            incoming.prompt,
            incoming.options,
            self._defaults,
            deadline=deadline,
            created=incoming.created,
            limits=self._limits,
        )
        incoming.deadline = request.deadline
        request.check_deadline()
        incoming.phase = "counting tokens"
        return replace(request, prompt_tokens=self.fleet.count_tokens(request))

    def _note(self, policy: Policy) -> None:
        """A first request was routed under *policy*: what its rules and detectors need is loaded."""
        rules = policy.tags.values()
        self._replaces = any(rule.pseudonymise for rule in rules)
        detected = {name for rule in rules for name in rule.detect}
        self._is_light = detected <= set(DETECTOR_NAMES) and not self.fleet.spending.is_remote
        self._routed_under = policy

    def _decide(self, assessment: Assessment, policy: Policy, incoming: Incoming) -> Routed:
        metadata = RequestMetadata.of(assessment.request)
        signals = self.fleet.fitted(assessment.request, self.fleet.snapshot(metadata, policy.objectives))
        signals = unable(self.fleet.lacking(assessment.request), signals)
        if (named := assessment.request.backends) is not None:
            signals = unable(not_named(named, signals.backends), signals)
        signals = unable(incoming.excluded, without(assessment.blocked, signals))
        return Routed(
            assessment=assessment,
            metadata=metadata,
            signals=signals,
            decision=_pinned(policy.decide(metadata, signals), incoming.pin),
            policy=policy,
            parse=_parser(incoming.options),
            check_calls=CallCheck(assessment.request) if assessment.request.tools else None,
            trace=incoming.trace,
        )

    def count_tokens(self, incoming: Incoming) -> int:
        """Tokens of the prompt, as rules read them. Raises as `receive` does."""
        policy = self.policy
        self.fleet.adopt(policy)
        return self._request(incoming, policy).prompt_tokens

    def may_hedge(self, routed: Routed) -> bool:
        """Whether the policy hedges slow calls and there is another backend or node for it."""
        limits, states = routed.policy.resilience, routed.signals.backends
        if limits.hedge_after is None:
            return False
        return sum([states[name].nodes for name in routed.decision.order]) > 1

    def answer(
        self,
        routed: Routed,
        open_stream: Opener,
        sleep: Sleep,
        race: Callable[[], Race] = OneByOne,
        aside: Aside = at_once,
        wakeup: Callable[[], Wakeup | None] = thread_wakeup,
    ) -> Answer:
        """Make the attempts of hop 5, which begin when the first chunk is asked for.

        Where an identical request is in flight, and may be cached, its answer is waited for with a *wakeup* instead.

        Raises:
            NoEligibleBackend: the decision excludes every backend.
            AuditUnavailable: it cannot be recorded, and must be.
        """
        if self.hooks.admitting:
            self._admit(routed)
        if not routed.decision.order:
            raise self._no_eligible(routed)
        over, guardrails, fleet, hooks = partial(self.release, routed), self._guardrails, self.fleet, self.hooks.all
        screen = None if guardrails is None else guardrails.screen(routed.assessment.request, routed.metadata, aside)
        answer = partial(Answer, routed=routed, hooks=hooks, notice=fleet.notice, follows=fleet.follows, screen=screen)
        found = self._cache.find(routed) if self._cache is not None else None
        if isinstance(found, Replay):
            return answer(found, over=over)
        if routed.trace is not None:
            open_stream = routed.trace.opens(open_stream)
        calls = BackendCalls(routed, self._guard, self.fleet, open_stream, sleep, aside)
        attempts, leave, trail, keep = self._attempts(routed, calls, race), calls.leave, calls.trail, None
        run: Run = attempts
        if self._cache is not None:
            keep = partial(self._cache.keep, routed, aside)
            if found is not None:
                run = shared = self._cache.share(found, routed, attempts, wakeup)
                over, leave = partial(shared.end, over), partial(shared.leave, leave)
        return answer(run, over=over, keep=keep, leave=leave, trail=trail)

    def _admit(self, routed: Routed) -> None:
        """Ask the hooks that may refuse a request."""
        try:
            self.hooks.admit(routed.metadata, routed.decision)
        except BaseException as error:
            self._ended(routed, error)
            raise

    def _no_eligible(self, routed: Routed) -> NoEligibleBackend:
        reasons = "; ".join(routed.decision.exclusions())
        error = NoEligibleBackend(f"no eligible backend: {reasons}", decision=routed.decision)
        self._ended(routed, error)
        return error

    def _ended(self, routed: Routed, error: BaseException) -> None:
        """The request ended with *error* before any backend was called."""
        self.release(routed)
        if not isinstance(error, HybridLLMError):
            return
        event = RequestEvent(
            metadata=routed.metadata,
            signals=routed.signals,
            decision=routed.decision,
            error=type(error).__name__,
            declared=routed.assessment.declared,
            trace=routed.trace,
        )
        emit(self.hooks.all, event)

    def _attempts(self, routed: Routed, calls: BackendCalls, race: Callable[[], Race]) -> Attempts:
        limits, order = routed.policy.resilience, routed.decision.order
        return self._make_attempts(
            metadata=routed.metadata,
            decision=routed.decision,
            open_stream=calls.stream if routed.trace is None else routed.trace.attempts(calls.stream),
            sleep=calls.sleep,
            breakers=self.fleet.health,
            budget=self.fleet.retry_budgets[order[0]],
            retries=limits.retries,
            nodes={name: state.nodes for name, state in routed.signals.backends.items() if state.nodes > 1},
            is_ready=self.fleet.is_ready,
            continue_streams=limits.continue_streams,
            race=race,
            parse=routed.parse,
            check_calls=routed.check_calls,
            aside=calls.aside,
            patience=partial(self.fleet.hedge_delay, limits),
        )

    def release(self, routed: Routed) -> None:
        """The request is over, or was only decided: drop what its pseudonyms stand for."""
        self._guard.release(routed.assessment)

    def forget(self, session_id: str, tenant: str | None) -> None:
        """A session is over: wipe its pseudonyms, and what backends on this device hold of it."""
        self._guard.forget(session_id, tenant)
        self.fleet.forget(session_id, tenant)

    def close(self) -> None:
        """Stop watching the policy, wipe pseudonyms and cache, and close what the fleet holds."""
        guarded(self._policies.close, "closing the policy")
        self._guard.close()
        self.fleet.close()
        self.hooks.detach(self.status)
        if self._cache is not None:
            self._cache.close()


def _parser(options: GenerateOptions) -> Parse:
    schema = options.get("output_schema")
    return None if schema is None else OutputParser(schema)


def _pinned(decision: Decision, pin: str) -> Decision:
    """*decision* with the backend *pin* first, where it is allowed."""
    if pin not in decision.order or pin == decision.order[0]:
        return decision
    order = (pin, *(name for name in decision.order if name != pin))
    return replace(decision, order=order, because=f"the steps before ran on {pin}")
