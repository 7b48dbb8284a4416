"""The client that apps use: `generate`, its streaming and async forms, and one life cycle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.limits import Defaults
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import GenerateOptions, Prompt
from hybrid_llm.core.signals import Signals
from hybrid_llm.core.tracebacks import scrubbed
from hybrid_llm.policies import FixedPolicy, Policy, PolicySource
from hybrid_llm.router.cache import AnswerCache, Cache
from hybrid_llm.router.execution.answer import AsyncStream, Stream, blocking_sleep, stepped
from hybrid_llm.router.execution.call import OneByOne
from hybrid_llm.router.execution.hedging import LoopThread, TaskRace
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.observability.hooks import Hook
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.signals import Sensors, SystemSensors
from hybrid_llm.router.signals.store import PredictionStore
from hybrid_llm.router.spending.charge import Spending
from hybrid_llm.router.spending.ledger import Ledger, Price

_log = logging.getLogger("hybrid_llm")


class HybridLLM:
    """Answers on the device where it can and in the cloud where it must, as the policy decides.

    One client serves many threads and event loops at once. Use it as a context manager, or call `close`.

        with HybridLLM.from_config("hybrid.yaml") as llm:
            print(llm.generate("Is this review positive? 'A warm, funny film.'").text)
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        policy: Policy | PolicySource,
        *,
        sensors: Sensors | None = None,
        detectors: Iterable[Detector] = (),
        hooks: Sequence[Hook] = (),
        defaults: Defaults | None = None,
        prices: Mapping[str, float | Price] | None = None,
        ledger: Ledger | None = None,
        predictions: PredictionStore | None = None,
        cache: Cache | None = None,
    ) -> None:
        """Make a client of parts; `from_config` makes one of a file.

        Args:
            backends: In order of preference where the policy has none. The client owns them: `close` closes them.
            policy: One policy, or a source that may replace it, such as a `PolicyFile`.
            sensors: What reads device and network; by default this machine's.
            detectors: Detectors of the app's own, which the policy may name.
            hooks: Called once about each request.
            defaults: What a request gets where the call sets nothing.
            prices: Backend -> `Price`, or one number per 1,000 tokens.
            ledger: Where the spending of tenants is booked; by default in memory.
            predictions: Where latency predictions are loaded from and stored.
            cache: Answers to repeated requests, such as a `MemoryCache`, as far as privacy tags allow.

        Raises:
            ConfigError: there is no backend, two share a name, or prices and policy count in different currencies.
        """
        policies = FixedPolicy(policy) if isinstance(policy, Policy) else policy
        guard = PrivacyGuard(detectors)
        fleet = Fleet(
            backends,
            policies.current,
            sensors=sensors or SystemSensors(),
            spending=Spending(prices or {}, ledger),
            predictions=predictions,
        )
        self._pipeline = Pipeline(
            fleet,
            policies,
            guard,
            hooks=hooks,
            defaults=defaults,
            cache=AnswerCache(cache, guard) if cache is not None else None,
        )
        self._loop = LoopThread()
        self._closed = False

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        *,
        sensors: Sensors | None = None,
        detectors: Sequence[Detector] = (),
        hooks: Sequence[Hook] = (),
        serve_metrics: bool = True,
    ) -> Self:
        """Build a client from a `hybrid.yaml`; its policy file is watched and reloaded.

        Args:
            path: The file; relative paths in it are relative to its folder.
            sensors: What reads device and network; by default this machine's.
            detectors: Detectors of the app's own, beside those of the library and of the file.
            hooks: Called once about each request, beside those of the file.
            serve_metrics: False for a second process beside the one that serves the file's `metrics`.

        Raises:
            ConfigError: the file, or one that it names, is invalid; the message has path, line and what to do.
        """
        from hybrid_llm.router.config import load_config
        from hybrid_llm.router.signals.calibrate import calibrate_missing

        config = load_config(Path(path))
        with ExitStack() as opened:
            policy = config.open_policy(frozenset(detector.name for detector in detectors))
            opened.callback(policy.close)
            own, models = config.open_hooks(opened, serve_metrics=serve_metrics), config.open_detectors()
            ledger = config.open_ledger()
            if ledger is not None:
                opened.callback(ledger.close)
            backends = config.open_backends()
            for backend in backends:
                opened.callback(backend.close)
            predictions = config.open_predictions()
            if config.prediction.calibrate:
                calibrate_missing(backends, predictions, policy.current, config.eager)
            client = cls(
                backends,
                policy,
                sensors=sensors,
                detectors=(*models, *detectors),
                hooks=(*hooks, *own),
                defaults=config.defaults,
                prices=config.prices,
                ledger=ledger,
                predictions=predictions,
            )
            opened.pop_all()
        return client

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._pipeline.policy

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in the order of the configuration."""
        return tuple(self._pipeline.fleet.backends.values())

    def signals(self) -> Signals:
        """The signals that a policy would read now for an empty request; `members` has each endpoint of a backend."""
        return self._pipeline.status().signals

    @scrubbed
    def decide(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
        """Return which backends would be tried, and why; nothing is sent, and no model runs.

        Raises:
            InvalidRequest: an option is out of range, or a privacy tag is unknown.
        """
        self._check_open()
        routed = self._pipeline.route(prompt, options)
        self._pipeline.release(routed)
        return routed.decision

    @scrubbed
    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Answer *prompt*; block until the answer is complete.

        Args:
            prompt: a text, a `Message`, or a list of `{"role": ..., "content": ...}`.
            options: see `GenerateOptions`: privacy tags, `max_tokens`, `deadline` in seconds, sampling, stop texts.

        Raises:
            InvalidRequest: an option is out of range, or a privacy tag is unknown.
            NoEligibleBackend: every backend is excluded.
            AllBackendsFailed: every eligible backend was tried.
            DeadlineExceeded: the deadline passed.
            StreamInterrupted: the answer broke off and was not continued.
            SecurityError: trust is broken.
        """
        with self.stream(prompt, **options) as stream:
            for _ in stream:
                pass
            return stream.generation

    @scrubbed
    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """Do as `generate` does, chunk by chunk. The decision is made, and routing errors are raised, in this call."""
        self._check_open()
        routed = self._pipeline.route(prompt, options)
        if not self._pipeline.may_hedge(routed):
            return Stream(self._pipeline.answer(routed, _open_sync, blocking_sleep))
        return Stream(self._pipeline.answer(routed, _open_async, asyncio.sleep, TaskRace), self._loop)

    @scrubbed
    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Do as `generate` does, without blocking the event loop; cancelling the task cancels the work."""
        async with self.astream(prompt, **options) as stream:
            async for _ in stream:
                pass
            return stream.generation

    @scrubbed
    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncStream:
        """Do as `stream` does, for `async for`."""
        self._check_open()
        routed = self._pipeline.route(prompt, options)
        race = TaskRace if self._pipeline.may_hedge(routed) else OneByOne
        return AsyncStream(self._pipeline.answer(routed, _open_async, asyncio.sleep, race))

    def forget(self, session_id: str, *, tenant: str | None = None) -> None:
        """End a conversation: wipe its pseudonyms and its part of the prefix cache on this device.

        Otherwise pseudonyms expire when they are idle, and the prefix cache gives way to newer sessions.
        """
        self._pipeline.forget(session_id, tenant)

    def _check_open(self) -> None:
        if self._closed:
            raise HybridLLMError("this client is closed; make a new one")

    def close(self) -> None:
        """Close every backend, last in first out; running requests end with `BackendUnavailable`. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._pipeline.close()
        for backend in reversed(self.backends):
            try:
                backend.close()
            except Exception as error:  # noqa: BLE001  # a backend that fails to close must not keep the others open
                _log_close(backend, error)
        self._loop.close()

    async def aclose(self) -> None:
        """Do as `close` does, from an event loop."""
        if self._closed:
            return
        self._closed = True
        self._pipeline.close()
        for backend in reversed(self.backends):
            try:
                await backend.aclose()
            except Exception as error:  # noqa: BLE001  # as in `close`
                _log_close(backend, error)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


def _open_sync(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
    return stepped(backend.stream(cleared))


def _open_async(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
    return backend.astream(cleared)


def _log_close(backend: Backend, error: Exception) -> None:
    _log.warning("closing %s failed with %s", backend.name, type(error).__name__)
