"""The backend on this device: loads one model, admits requests, and runs them off the event loop. No decoding here."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from concurrent.futures import wait
from contextlib import closing, contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.chat_files import read_sampling, recommends_draw
from hybrid_llm.backends.edge.folder import read_layout, read_manifest
from hybrid_llm.backends.edge.scheduling import EndCause, PrefixCache, Slots, Watchdog
from hybrid_llm.backends.edge.spec import EdgeConfig
from hybrid_llm.backends.edge.store import DEMONSTRATION, embedded_model
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ConfigError,
    InvalidRequest,
    RequestRejected,
    SecurityError,
)
from hybrid_llm.core.fields import Whole, keys_of
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.lifetime import Origin, close_at_exit, native
from hybrid_llm.core.log import log
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.core.threads import Once, Pool, ThreadAnswer, awaited, close_aside, in_thread, release_dropped

if TYPE_CHECKING:
    from hybrid_llm.backends.edge.generation import Run
    from hybrid_llm.backends.edge.model import EdgeModel


_GENERATION: Final = "hybrid_llm.backends.edge.generation"  # imports numpy, for which an event loop must not wait
_EXACT_COUNT_BYTES = 64 * 1024
"""Longer prompts, if far beyond the context window, are estimated: counting their tokens would take too long."""


class EdgeBackend:
    """Answers on this device, with ONNX Runtime. May be used from many threads and event loops at once."""

    location: Final = Location.EDGE
    """Prompts stay on this device."""

    def __init__(self, config: EdgeConfig | None = None) -> None:
        """Read the model folder's manifest; load the model if `config.load` is `eager`.

        Raises:
            ConfigError: the folder or an option is unusable.
        """
        self._config = config = config or EdgeConfig()
        _check_config(config)
        self.name = config.name
        """The name that policies and configurations use."""
        self._folder = config.folder
        self._notice = DEMONSTRATION if self._folder == embedded_model() else ""
        self._draws = recommends_draw(read_sampling(self._folder))
        self._manifest = read_manifest(self._folder)
        self._revision = self._manifest.digest
        per_token = read_layout(self._folder, self._manifest).kv_bytes_per_token(4)
        self._memory = config.memory_limit_mb << 20
        self._context_window = min(self._manifest.context_window, self._memory // per_token)
        self._slots = Slots(concurrency=config.max_concurrency, queue=config.max_queue, memory=self._memory)
        self._prefixes = PrefixCache() if config.reuse_prefixes else None
        self._watchdog = Watchdog()
        self._loading = Once("hybrid-llm-edge-load", self.load)
        self._loading_tokenizer = Once("hybrid-llm-edge-tokenizer", self._chat_tokenizer)
        self._tokenizer_lock = threading.Lock()
        self._lock, self._load_lock = threading.Lock(), threading.Lock()
        self._runs: set[Run] = set()
        self._tokenizer: ChatTokenizer | None = None
        self._signed: Mapping[str, str] | None = None
        self._model: EdgeModel | None = None
        self._threads = Pool(config.max_concurrency + config.max_queue, "hybrid-llm-edge")
        self._failure = ""
        self._closed = False
        self._mean_seconds = 0.0
        self._origin = Origin()
        close_at_exit(self)
        if config.load == "eager":
            self.load()

    @property
    def capabilities(self) -> Capabilities:
        """The model's name and context window; known before the model is loaded."""
        return Capabilities(
            model=self._manifest.name,
            context_window=self._context_window,
            output_schema=True,
            tools=True,
            logprobs=True,
            penalties=True,
            draws=self._draws,
            notice=self._notice,
            revision=self._revision,
        )

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def state(self) -> BackendState:
        """The current load. Not ready if the model could not be loaded, or the backend is closed."""
        active, queued = self._slots.active, self._slots.queued
        return BackendState(
            name=self.name,
            location=Location.EDGE,
            ready=not self._closed and not self._failure,
            reason="closed" if self._closed else self._failure,
            active=active,
            queue=queued,
            load=(active + queued) / self._config.max_concurrency,
            context_window=self._context_window,
            energy_per_1k_tokens_j=self._config.energy_per_1k_tokens_j,
        )

    def load(self) -> None:
        """Load the model unless it is loaded; concurrent callers wait for one load.

        Raises:
            ConfigError: the folder is unusable; the message says what to do. A later call tries again.
        """
        with self._load_lock:
            if self._model is not None:
                return
            with self._noting_failure():
                self._model = self._open()
            self._failure = ""

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt: exact, or estimated where the prompt is far larger than the context window.

        It is also estimated where the tokenizer or the model cannot be loaded: `state` has the reason.
        """
        estimate = estimate_tokens(request)  # three bytes a token
        if self._failure or (3 * estimate > _EXACT_COUNT_BYTES and estimate > 8 * self._context_window):
            return estimate
        try:
            return len(self._tokenizer_for(request).encode(request))
        except (InvalidRequest, ConfigError, SecurityError):
            return estimate

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Generate in the caller's thread. Closing the generator cancels.

        Raises:
            PrivacyViolation: the clearance does not cover this device.
            BackendError: within the deadline of the request.
        """
        request = require_clearance(cleared, Location.EDGE)
        run = self._enter(request)
        try:
            yield from run.chunks(self._ready(run), self._context_window)
        finally:
            self._leave(run)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Like `stream`, in a thread of this backend. Cancelling the task ends the run within its current step."""
        request = require_clearance(cleared, Location.EDGE)
        if _GENERATION not in sys.modules:
            await awaited(in_thread("hybrid-llm-edge-import", partial(import_module, _GENERATION)))
        run = self._enter(request)
        answer = ThreadAnswer()
        try:
            self._threads.submit(partial(self._pump, run, answer))
        except BaseException:
            self._leave(run)
            raise
        try:
            while (chunk := await answer.next()) is not None:
                yield chunk
        finally:
            run.end(EndCause.CANCELLED)
            await answer.ended()

    def abort(self, request_id: str) -> None:
        """End the runs of this request during their current step; from any thread."""
        with self._lock:
            runs = [run for run in self._runs if run.request_id == request_id]
        for run in runs:
            run.end(EndCause.CANCELLED)

    def forget(self, session_id: str, tenant: str | None) -> None:
        """Drop the stored prefixes of a session."""
        if self._prefixes is not None:
            self._prefixes.forget(session_id, tenant)

    def close(self) -> None:
        """End running requests with `BackendUnavailable`, and release the model and the threads. Idempotent."""
        if not self._origin.is_here:
            return
        with self._lock:
            self._closed = True
            runs = list(self._runs)
        for run in runs:
            run.end(EndCause.CLOSED)
        if self._prefixes is not None:
            self._prefixes.close()
        self._watchdog.close()
        self._threads.close(join=True)
        if self._model is not None:
            self._model.sessions.close()
        self._model = self._tokenizer = None

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        await close_aside("hybrid-llm-edge-close", self.close)

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            release_dropped(self, "EdgeBackend", self._watchdog.close)

    def _pump(self, run: Run, answer: ThreadAnswer) -> None:
        """Deliver the whole answer, then its end, from a worker thread; the slot is released before the end."""
        error: BaseException | None = None
        try:
            with closing(run.chunks(self._ready(run), self._context_window)) as chunks:
                for chunk in chunks:
                    if not answer.put(chunk):
                        break
        except BaseException as raised:  # noqa: BLE001  # the consumer raises it, if there still is one
            error = raised
        finally:
            self._leave(run)
            answer.end(error)

    def _enter(self, request: Request) -> Run:
        """Check the request and join the queue, without blocking."""
        from hybrid_llm.backends.edge.generation import Run

        self._origin.check(f"the model of {self.name} was opened")
        problem = _problem(request)
        if problem is not None:
            raise RequestRejected(problem[1], backend=self.name, reason=problem[0])
        with self._lock:
            if self._closed:
                raise self._closed_error()
            ticket = self._slots.enter()
            if ticket is None:
                raise self._overloaded()
            auto = self._config.speculation == "auto"
            run = Run(request, ticket, self._watchdog, self._prefixes, backend=self.name, speculate=auto)
            self._runs.add(run)
            return run

    def _leave(self, run: Run) -> None:
        run.leave()
        with self._lock:
            self._runs.discard(run)
            self._mean_seconds += 0.2 * (time.perf_counter() - run.begun - self._mean_seconds)

    def _overloaded(self) -> BackendOverloaded:
        rounds = (self._slots.active + self._slots.queued) / self._config.max_concurrency
        return BackendOverloaded(
            f"{self._config.max_concurrency} requests are running and {self._config.max_queue} are waiting",
            backend=self.name,
            retry_after=round(self._mean_seconds * rounds, 3) or None,
        )

    def _ready(self, run: Run) -> EdgeModel:
        """The loaded model, loaded on first use. A failed load is not retried by requests, only by `load`.

        The load goes on for later requests if *run* ends meanwhile, at its deadline for example.
        """
        if self._model is None and not self._failure:
            load = self._loading.begin()
            run.wait_for(load)
            if (error := load.exception()) is not None:
                if isinstance(error, SecurityError):
                    raise error
                raise BackendUnavailable(str(error), backend=self.name, reason="not_ready") from error
        model = self._model  # `close` may clear it at any time
        if model is not None:
            return model
        if self._failure:
            raise BackendUnavailable(self._failure, backend=self.name, reason="not_ready")
        raise self._closed_error()

    def _closed_error(self) -> BackendUnavailable:
        return BackendUnavailable("the backend is closed", backend=self.name, reason="closed")

    def _open(self) -> EdgeModel:
        from hybrid_llm.backends.edge.model import EdgeModel

        tokenizer = self._chat_tokenizer()
        with native:
            model = EdgeModel(
                self._folder,
                threads=self._config.threads,
                spin=self._config.spin,
                tokenizer=tokenizer,
                signed=self._signed,
            )
        self._context_window = min(model.layout.context_length, self._memory // model.kv_bytes_per_token)
        return model

    def _chat_tokenizer(self) -> ChatTokenizer:
        with self._tokenizer_lock, self._noting_failure():
            if self._tokenizer is None:
                self._signed = self._verify()
                self._tokenizer = ChatTokenizer.load(self._folder)
            return self._tokenizer

    def _verify(self) -> Mapping[str, str] | None:
        """File -> SHA-256 of what is signed; None where no signature is asked for."""
        if self._config.trust is None:
            return None
        from hybrid_llm.backends.signing.verify import verify_folder

        return verify_folder(self._folder, self._config.trust).files

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Be not ready from now on, with the reason, if a part cannot be loaded; the other backends answer."""
        try:
            yield
        except Exception as error:
            ours = isinstance(error, ConfigError | SecurityError)
            failure = str(error) if ours else f"it cannot be loaded: {type(error).__name__}"
            if failure != self._failure:
                log.warning("%s is not ready: %s", self.name, failure)
            self._failure = failure
            raise

    def _tokenizer_for(self, request: Request) -> ChatTokenizer:
        """The tokenizer, loaded on first use. Raises DeadlineExceeded if that takes until the request's deadline."""
        if self._tokenizer is not None:
            return self._tokenizer
        loading = self._loading_tokenizer.begin()
        wait([loading], max(0.0, request.remaining()))
        if not loading.done():
            request.check_deadline()
        return loading.result()


def _problem(request: Request) -> tuple[str, str] | None:
    """Why the device cannot answer *request*: a reason code and a message; None if it can."""
    if request.max_tokens < 1:
        return "invalid_argument", "max_tokens must be 1 or more"
    if request.deadline != request.deadline:
        return "invalid_argument", "deadline must be a number of seconds"
    problem = request.sampling.fault()
    return ("invalid_argument", problem) if problem else None


def _check_config(config: EdgeConfig) -> None:
    for item in keys_of(EdgeConfig):
        value = getattr(config, item.attribute)
        if isinstance(item.kind, Whole) and value < item.kind.least:
            raise ConfigError(f"edge backend: {item.name} must be {item.kind.least} or more")
    if config.load not in ("lazy", "eager") or not config.name:
        raise ConfigError("edge backend: load must be 'lazy' or 'eager', and name must not be empty")
