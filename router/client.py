"""The client that apps use: `generate`, its streaming and async forms, and one life cycle."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.limits import Defaults, RequestLimits, SessionLimits
from hybrid_llm.core.loops import LoopThread
from hybrid_llm.core.protocols import Backend, Guardrail
from hybrid_llm.core.request import GenerateOptions, Prompt
from hybrid_llm.core.threads import (
    Workers,
    awaited,
    close_aside,
    closed_error,
    in_event_loop,
    in_thread,
    release_dropped,
    require_asyncio,
)
from hybrid_llm.core.tracebacks import scrubbed
from hybrid_llm.policies import Policy, PolicySource
from hybrid_llm.policies.reader.plain import ConfigSource, config_source
from hybrid_llm.router.assembly import assemble, assemble_from_config
from hybrid_llm.router.caching.answers import AnswerCache
from hybrid_llm.router.caching.flights import LoopWakeup
from hybrid_llm.router.closing import aclose_parts, close_parts
from hybrid_llm.router.execution.answer import Answer, blocking_sleep, stepped
from hybrid_llm.router.execution.call import OneByOne
from hybrid_llm.router.execution.hedging import TaskRace
from hybrid_llm.router.execution.stream import AsyncStream, Stream
from hybrid_llm.router.guardrails.rules import GuardrailRule
from hybrid_llm.router.insight import Insight
from hybrid_llm.router.observability.hooks import Hook, Refusal
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy.detectors import Detector
from hybrid_llm.router.request import Incoming
from hybrid_llm.router.signals import Sensors
from hybrid_llm.router.signals.store import PredictionStore
from hybrid_llm.router.spending.ledger import Ledger, Price
from hybrid_llm.router.tool_loop import ToolRunner

if TYPE_CHECKING:
    from hybrid_llm.router.config import Config

T = TypeVar("T")


class HybridLLM(Insight, ToolRunner):
    """Answers on the device where it can and in the cloud where it must, as the policy decides.

    One client serves many threads and event loops at once. Use it as a context manager, or call `close`.

        with HybridLLM.from_config("hybrid.yaml") as llm:
            print(llm.generate("Is this review positive? 'A warm, funny film.'").text)
    """

    _made: Pipeline | None
    """The parts; None until the file of a client that was created in an event loop is read."""

    def __init__(
        self,
        backends: Sequence[Backend],
        policy: Policy | PolicySource,
        *,
        sensors: Sensors | None = None,
        detectors: Iterable[Detector] | None = (),
        hooks: Sequence[Hook] | None = (),
        defaults: Defaults | None = None,
        prices: Mapping[str, float | Price] | None = None,
        ledger: Ledger | None = None,
        predictions: PredictionStore | None = None,
        cache: AnswerCache | None = None,
        guardrails: Iterable[Guardrail | GuardrailRule] | None = (),
        sessions: SessionLimits | None = None,
        limits: RequestLimits | None = None,
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
            cache: Answers to repeated requests, such as a `MemoryCache` or `DiskCache`, as far as privacy tags allow.
            guardrails: What judges requests and answers, in this order, such as `hybrid_llm.guardrails.default()`.
            sessions: How many sessions hold values behind pseudonyms, and for how long.
            limits: How large a request may be.

        Raises:
            ConfigError: there is no backend, two share a name, or prices and policy count in different currencies.
        """
        self._prepare()
        self._made = assemble(
            backends,
            policy,
            sensors=sensors,
            detectors=detectors,
            hooks=hooks,
            defaults=defaults,
            prices=prices,
            ledger=ledger,
            predictions=predictions,
            cache=cache,
            guardrails=guardrails,
            sessions=sessions,
            limits=limits,
        )

    def _prepare(self, make: Callable[[], Pipeline] | None = None) -> None:
        """Set what every client has; *make* makes its parts when they are first needed."""
        self._made = None
        self._make = make
        self._added: list[Hook] = []
        self._loop = LoopThread()
        self._workers = Workers()
        self._opening = threading.RLock()
        self._closed = False
        self._origin = Origin()
        close_at_exit(self)

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | Mapping[str, Any],
        *,
        sensors: Sensors | None = None,
        detectors: Sequence[Detector] | None = (),
        hooks: Sequence[Hook] | None = (),
        serve_metrics: bool = True,
    ) -> Self:
        """Build a client from a `hybrid.yaml`, or a mapping with its keys; its policy file is watched and reloaded.

        Where an event loop runs, which must not be blocked, the file is read by `async with`, else by the first call,
        in a thread; that raises the error of an invalid file.

            async with HybridLLM.from_config("hybrid.yaml") as llm:
                reply = await llm.agenerate("Is this review positive? 'A warm, funny film.'")

        Args:
            config: The file; relative paths in it are relative to its folder, those in a mapping to the working one.
            sensors: What reads device and network; by default this machine's.
            detectors: Detectors of the app's own, beside those of the library and of the file.
            hooks: Called once about each request, beside those of the file.
            serve_metrics: False for a second process beside the one that serves the file's `metrics`.

        Raises:
            ConfigError: it, or a file that it names, is invalid; the message has line or key, and what to do.
        """
        parts = {"sensors": sensors, "detectors": tuple(detectors or ()), "hooks": tuple(hooks or ())}
        return cls._of(config_source(config), **parts, serve_metrics=serve_metrics)

    @classmethod
    def _of(cls, source: ConfigSource | Config, **parts: Any) -> Self:
        """The client of a configuration; *parts* as of `assemble_from_config`."""
        client = cls.__new__(cls)
        client._prepare(partial(assemble_from_config, source, **parts))
        if not in_event_loop():
            client._open()
        return client

    @property
    def _pipeline(self) -> Pipeline:
        self._check_origin()
        return self._made or self._open()

    def _open(self) -> Pipeline:
        """Make the parts of a client whose file is not read yet."""
        with self._opening:
            if self._made is None:
                self._check_open()
                assert self._make is not None
                made = self._make()
                for hook in self._added:
                    made.add_hook(hook)
                self._made = made
            return self._made

    async def _aopen(self) -> Pipeline:
        """Do as `_open` does, without blocking the event loop."""
        if self._made is not None:
            return self._made
        work = in_thread("hybrid-llm-open", self._open)
        try:
            return await awaited(work)
        except asyncio.CancelledError:
            work.add_done_callback(lambda _: self.close())  # nobody else would
            raise

    @scrubbed
    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Answer *prompt*; block until the answer is complete.

        Args:
            prompt: a text, a `Message`, or a list of `{"role": ..., "content": ...}`.
            options: see `GenerateOptions`: privacy tags, `max_tokens`, `deadline` in seconds, sampling, stop texts. The
                deadline counts from this call.

        Raises:
            InvalidRequest: an option is out of range, or a privacy tag is unknown.
            ContentRefused: a guardrail refuses what the request asks, or what the answer says.
            NoEligibleBackend: every backend is excluded.
            AllBackendsFailed: every eligible backend was tried.
            DeadlineExceeded: the deadline passed.
            StreamInterrupted: the answer broke off and was not continued.
            SecurityError: trust is broken.
        """
        return self.stream(prompt, **options).collect()

    @scrubbed
    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """Do as `generate` does, chunk by chunk. The decision is made, and routing errors are raised, in this call."""
        return self._stream(Incoming(prompt=prompt, options=options))

    def _stream(self, incoming: Incoming) -> Stream:
        self._check_open()
        pipeline = self._pipeline
        if pipeline.tracing is not None:
            pipeline.begin_trace(incoming)
        routed = pipeline.receive(incoming)
        if not pipeline.may_hedge(routed):
            return Stream(pipeline.answer(routed, _open_sync, blocking_sleep), owner=self)
        answer = pipeline.answer(routed, _open_async, asyncio.sleep, TaskRace, self._workers.run, LoopWakeup)
        return Stream(answer, self._loop, owner=self)

    @scrubbed
    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Generation:
        """Do as `generate` does, without blocking the event loop; cancelling the task cancels the work."""
        return await self.astream(prompt, **options).collect()

    @scrubbed
    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncStream:
        """Do as `stream` does, for `async for`.

        Entering the stream with `async with`, or else its first chunk, routes the request and raises errors of routing;
        `decision` is known from then on. The deadline counts from this call.
        """
        return self._astream(Incoming(prompt=prompt, options=options))

    def _astream(self, incoming: Incoming) -> AsyncStream:
        self._check_open()
        return AsyncStream(lambda: self._start(incoming), owner=self)

    def _deadline(self, incoming: Incoming) -> float:
        self._check_open()
        return self._pipeline.set_deadline(incoming)

    async def _start(self, incoming: Incoming) -> Answer:
        """Route, and make the answer, which begins when its first chunk is asked for."""
        require_asyncio()

        def start(pipeline: Pipeline) -> Answer:
            if pipeline.tracing is not None:
                pipeline.begin_trace(incoming)
            routed = pipeline.receive(incoming)
            race = TaskRace if pipeline.may_hedge(routed) else OneByOne
            return pipeline.answer(routed, _open_async, asyncio.sleep, race, self._workers.run, LoopWakeup)

        return await self._aside(incoming, start, Answer.abandon)

    async def _aside(
        self,
        incoming: Incoming,
        call: Callable[[Pipeline], T],
        drop: Callable[[T], object] = lambda _: None,
        *,
        quick: bool = True,
    ) -> T:
        """Do *call* here if that is quick, else in a thread, which is waited for until the deadline."""
        self._check_open()
        pipeline: Pipeline | None = self._made
        if pipeline is None:
            pipeline = await incoming.within(self._aopen())
        if quick and pipeline.is_quick(incoming):
            return call(pipeline)
        pipeline.set_deadline(incoming)
        return await incoming.within(self._workers.run(lambda: call(pipeline), drop))

    def add_hook(self, hook: Hook) -> None:
        """Call *hook*, too, about each request that begins from now on."""
        self._check_open()
        with self._opening:
            if self._made is None:  # its file is not read yet
                self._added.append(hook)
            else:
                self._made.add_hook(hook)

    def report_refusal(self, refusal: Refusal) -> None:
        """Inform the hooks, such as the audit log, of a request that was refused before this client had it."""
        self._pipeline.hooks.refused(refusal)

    def forget(self, session_id: str, *, tenant: str | None = None) -> None:
        """End a conversation: wipe its pseudonyms and its part of the prefix cache on this device.

        Otherwise pseudonyms expire when they are idle, and the prefix cache gives way to newer sessions.
        """
        self._pipeline.forget(session_id, tenant)

    def _check_origin(self) -> None:
        self._origin.check("this client was made")

    def _check_open(self) -> None:
        self._check_origin()
        if self._closed:
            raise closed_error()

    def close(self) -> None:
        """Close every backend, last in first out; running requests end with `BackendUnavailable`. Idempotent.

        In a forked child it does nothing: what the client holds belongs to the parent.
        """
        if (pipeline := self._shut()) is not None:
            close_parts(pipeline, self._loop, self._workers)

    async def aclose(self) -> None:
        """Do as `close` does, from an event loop, without blocking it."""
        if self._closed:
            return
        pipeline = await close_aside("hybrid-llm-close", self._shut)
        if pipeline is not None:
            await aclose_parts(pipeline, self._loop, self._workers)

    def _shut(self) -> Pipeline | None:
        """Accept no further call; return what is to be closed, to one caller."""
        if not self._origin.is_here:  # what it holds is the parent's
            return None
        with self._opening:  # not while another thread opens
            made = None if self._closed else self._made
            self._closed = True
            return made

    def __del__(self) -> None:
        made = getattr(self, "_made", None)
        if made is not None and not self._closed:
            release_dropped(self, "HybridLLM", partial(close_parts, made, self._loop, self._workers))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        require_asyncio()
        await self._aopen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


def _open_sync(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
    return stepped(backend.stream(cleared))


def _open_async(backend: Backend, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
    return backend.astream(cleared)
