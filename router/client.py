"""The client that apps hold: `generate`, its streaming and async forms, and one life cycle; no logic of its own."""

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
from hybrid_llm.policies import FixedPolicy, Policy, PolicySource
from hybrid_llm.router.cache import AnswerCache, Cache
from hybrid_llm.router.execution.answer import AsyncStream, Stream, blocking_sleep, stepped
from hybrid_llm.router.execution.hedging import LoopThread, OneByOne, TaskRace
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
    """Answers on the device where it can, in the cloud where it must, as the policy says.

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
        """Take over *backends*: closing the client closes them, last in, first out.

        *prices* maps a backend to its price, a `Price` or a number per 1,000 tokens; *ledger* is what tenants spend is
        booked in, by default one that ends with the client; *predictions* is what speeds begin from; *sensors* replaces
        this machine's own; *cache*, such as a `MemoryCache`, keeps answers for identical requests, as far as their
        privacy tags allow.
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

        The policy may name *detectors* of the app's own beside those of the library and of the file. Without
        *serve_metrics* the file's `metrics` are left alone, for a second process beside the one that serves them.

        Raises:
            ConfigError: the file, or one that it names, is wrong; path, line and remedy are in the message.
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
        """The policy that decides now."""
        return self._pipeline.policy

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends, in the order of the configuration."""
        return tuple(self._pipeline.fleet.backends.values())

    def signals(self) -> Signals:
        """What a policy would see now for an empty request; the nodes of a backend are its `members`, one by one."""
        return self._pipeline.status().signals

    def decide(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Decision:
        """Tell who would be asked, and why; nothing is sent, and no model runs."""
        self._check_open()
        routed = self._pipeline.route(prompt, options)
        self._pipeline.release(routed)
        return routed.decision

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Answer *prompt*; blocks until the whole answer is there.

        Args:
            prompt: a text, a `Message`, or a list of `{"role": ..., "content": ...}`.
            options: see `GenerateOptions`: privacy tags, `max_tokens`, `deadline` in seconds, sampling, stop texts.

        Raises:
            InvalidRequest: an option is out of range, or a privacy tag is unknown.
            NoEligibleBackend: nobody may or can take the request.
            AllBackendsFailed: everyone was tried.
            DeadlineExceeded: the time is over.
            StreamInterrupted: the answer broke off.
            SecurityError: trust is broken.
        """
        with self.stream(prompt, **options) as stream:
            for _ in stream:
                pass
            return stream.generation

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """Do as `generate` does, piece by piece. The decision is made here; errors of routing are raised here."""
        self._check_open()
        routed = self._pipeline.route(prompt, options)
        if not self._pipeline.may_hedge(routed):
            return Stream(self._pipeline.answer(routed, _open_sync, blocking_sleep))
        return Stream(self._pipeline.answer(routed, _open_async, asyncio.sleep, TaskRace), self._loop)

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Do as `generate` does, without blocking the event loop; cancelling the task cancels the work."""
        async with self.astream(prompt, **options) as stream:
            async for _ in stream:
                pass
            return stream.generation

    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncStream:
        """Do as `stream` does, for `async for`."""
        self._check_open()
        routed = self._pipeline.route(prompt, options)
        race = TaskRace if self._pipeline.may_hedge(routed) else OneByOne
        return AsyncStream(self._pipeline.answer(routed, _open_async, asyncio.sleep, race))

    def forget(self, session_id: str, *, tenant: str | None = None) -> None:
        """The conversation is over: wipe what its pseudonyms stand for, and what the device keeps of what it read.

        Without this pseudonyms go when they are idle, and what was read when the memory is needed.
        """
        self._pipeline.forget(session_id, tenant)

    def _check_open(self) -> None:
        if self._closed:
            raise HybridLLMError("this client is closed; make a new one")

    def close(self) -> None:
        """Close every backend; requests that run end with `BackendUnavailable`. Twice is once."""
        if self._closed:
            return
        self._closed = True
        self._pipeline.close()
        for backend in reversed(self.backends):
            try:
                backend.close()
            except Exception as error:  # noqa: BLE001  # one that cannot close must not keep the others open
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
