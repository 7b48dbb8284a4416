"""The backend that runs an encoder on this device: it serves `classify` or `extract`, and nothing else.

It answers as a generator does, in JSON that follows the output schema, with log-probabilities where they are asked for.
A text that is longer than the model reads at once is read in windows.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from hybrid_llm.backends.encoder.answers import classification, extraction
from hybrid_llm.backends.encoder.classifiers import EntityFinder, text_shares
from hybrid_llm.backends.encoder.files import invalid, revision_of
from hybrid_llm.backends.encoder.model import Encoder, Windows
from hybrid_llm.backends.encoder.spec import EncoderConfig, meaning
from hybrid_llm.backends.signing.verify import verify_folder
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ConfigError,
    DeadlineExceeded,
    RequestRejected,
    SecurityError,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.log import log
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.looks import begin, end, look
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.core.taskform import CLASSIFY, kinds_of, text_of, unserved
from hybrid_llm.core.taskform import labels_of as labels_asked
from hybrid_llm.core.threads import Once, Pool, ThreadAnswer, close_aside, release_dropped

_WINDOW: Final = 1 << 20
"""Tokens: it reads texts of any length, window by window. A request is limited by `limits: bytes` before."""
_LOOK_S: Final = 0.05
"""How often a request that waits for a slot looks whether it has ended."""


@dataclass(eq=False, slots=True)
class _Run:
    """One request in progress, which another thread may end."""

    request: Request
    began: float = field(default_factory=time.perf_counter)
    ended: bool = False
    queued_s: float = 0.0


class EncoderBackend:
    """Serves one task on this device with a BERT-class model. May be used from many threads and event loops at once."""

    location: Final = Location.EDGE
    """Texts stay on this device."""

    def __init__(self, config: EncoderConfig) -> None:
        """Read the folder's configuration; load the model if `config.load` is `eager`.

        Raises:
            ConfigError: the folder or an option is unusable.
        """
        self._config = config
        self.name = config.name
        """The name that policies and configurations use."""
        self._task, self._names = meaning(config)
        self._revision = revision_of(config.model)
        self._slots = threading.Semaphore(config.max_concurrency)
        self._runs: set[_Run] = set()
        self._lock = threading.Lock()
        self._pool = Pool(config.max_concurrency + config.max_queue, "hybrid-llm-encoder")
        self._loading = Once("hybrid-llm-encoder-load", self._load)
        self._encoder: Encoder | None = None
        self._failure = ""
        self._closed = False
        self._origin = Origin()
        close_at_exit(self)
        if config.load == "eager":
            self.load()

    @property
    def capabilities(self) -> Capabilities:
        """The task that it serves, with the labels; known before the model is loaded."""
        return Capabilities(
            model=self._config.model.name,
            context_window=_WINDOW,
            output_schema=True,
            logprobs=self._task == CLASSIFY,
            penalties=True,  # it draws no token that could come twice
            tasks={self._task: frozenset(name.lower() for name in self._names.values())},
            revision=self._revision,
        )

    def state(self) -> BackendState:
        """The current load. Not ready if the model could not be loaded, or the backend is closed."""
        running, most = len(self._runs), self._config.max_concurrency
        return BackendState(
            name=self.name,
            location=Location.EDGE,
            ready=not self._closed and not self._failure,
            reason="closed" if self._closed else self._failure,
            active=min(running, most),
            queue=max(0, running - most),
            load=running / most,
            context_window=_WINDOW,
            energy_per_1k_tokens_j=self._config.energy_per_1k_tokens_j,
        )

    def load(self) -> None:
        """Load the model unless it is loaded.

        Raises:
            ConfigError: the folder is unusable; the message says what to do. A later call tries again.
        """
        self._loading.begin().result()

    def count_tokens(self, request: Request) -> int:
        """An estimate: what the model reads depends on its windows."""
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in the caller's thread. Closing the generator cancels.

        Raises:
            PrivacyViolation: the clearance does not cover this device.
            BackendError: within the deadline of the request.
        """
        run = self._enter(require_clearance(cleared, Location.EDGE))
        try:
            yield from self._chunks(run)
        finally:
            self._leave(run)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Like `stream`, in a thread of this backend. Cancelling the task ends the run after its current window."""
        run = self._enter(require_clearance(cleared, Location.EDGE))
        answer = ThreadAnswer()
        try:
            self._pool.submit(partial(self._pump, run, answer))
        except BaseException:
            self._leave(run)
            raise
        try:
            while (chunk := await answer.next()) is not None:
                yield chunk
        finally:
            run.ended = True
            await answer.ended()

    def abort(self, request_id: str) -> None:
        """End the runs of this request after their current window; from any thread."""
        with self._lock:
            for run in self._runs:
                run.ended = run.ended or run.request.request_id == request_id

    def close(self) -> None:
        """End running requests with `BackendUnavailable`, and release the model and the threads. Idempotent."""
        if not self._origin.is_here:
            return
        self._closed = True
        self._pool.close(join=True)
        self._encoder = None

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        await close_aside("hybrid-llm-encoder-close", self.close)

    def __del__(self) -> None:
        if getattr(self, "_encoder", None) is not None and not self._closed:
            release_dropped(self, "EncoderBackend", self._pool.close)

    def _pump(self, run: _Run, answer: ThreadAnswer) -> None:
        """Deliver the whole answer, then its end, from a worker thread."""
        error: BaseException | None = None
        try:
            for chunk in self._chunks(run):
                answer.put(chunk)
        except BaseException as raised:  # noqa: BLE001  # the consumer raises it, if there still is one
            error = raised
        finally:
            self._leave(run)
            answer.end(error)

    def _enter(self, request: Request) -> _Run:
        """Check the request and take a place, without blocking."""
        self._origin.check(f"the model of {self.name} was opened")
        if problem := unserved(request, self.capabilities.tasks):
            raise RequestRejected(problem, backend=self.name, reason="unsupported")
        run, most = _Run(request), self._config.max_concurrency + self._config.max_queue
        with self._lock:
            if self._closed:
                raise self._closed_error()
            if len(self._runs) >= most:
                message = f"{self._config.max_concurrency} requests are running and {self._config.max_queue} waiting"
                raise BackendOverloaded(message, backend=self.name)
            self._runs.add(run)
        return run

    def _leave(self, run: _Run) -> None:
        with self._lock:
            self._runs.discard(run)

    def _chunks(self, run: _Run) -> Iterator[Chunk]:
        """The answer, once a slot is free."""
        encoder = self._ready(run)
        while not self._slots.acquire(timeout=_LOOK_S):
            self._check(run)
        run.queued_s = time.perf_counter() - run.began
        try:
            yield from self._answer(run, encoder)
        finally:
            self._slots.release()

    def _answer(self, run: _Run, encoder: Encoder) -> Iterator[Chunk]:
        request = run.request
        text, schema = text_of(request) or "", json.loads(request.output_schema or "{}")
        token = begin(partial(self._check, run))  # the work looks at it between its pieces
        try:
            look()
            logprobs: tuple[TokenLogprob, ...] = ()
            if self._task == CLASSIFY:
                windows = encoder.windows(text)
                answer, logprobs = classification(
                    labels_asked(schema), self._shares(encoder, windows), request.logprobs
                )
            else:
                finder = EntityFinder(encoder, self._names, min_score=self._config.min_score)
                spans = [(span.kind.lower(), text[span.start : span.end]) for span in finder.find(text)]
                answer, windows = extraction(kinds_of(schema), spans), encoder.windows(text)
        except (BackendUnavailable, DeadlineExceeded):
            raise
        except Exception as error:  # onnxruntime has one unrelated exception class per status
            message = f"the model failed: {type(error).__name__}"
            raise BackendUnavailable(message, backend=self.name, reason="failed") from error
        finally:
            end(token)
        elapsed_ms = 1e3 * (time.perf_counter() - run.began)
        yield Chunk(
            text=answer,
            logprobs=logprobs,
            finish_reason=FinishReason.STOP,
            usage=Usage(prompt_tokens=sum(len(window.ids) for window in windows), completion_tokens=1),
            timings=Timings(queue_ms=1e3 * run.queued_s, ttft_ms=elapsed_ms, total_ms=elapsed_ms),
        )

    def _shares(self, encoder: Encoder, windows: Windows) -> dict[str, float]:
        """Label, as requests name it, in lower case -> the natural logarithm of its share."""
        shares = dict(zip(encoder.labels, text_shares(encoder, windows), strict=True))
        return {name.lower(): shares[label] for label, name in self._names.items()}

    def _ready(self, run: _Run) -> Encoder:
        """The loaded model, loaded on first use; the load goes on if *run* ends meanwhile."""
        if self._encoder is None and not self._failure:
            load = self._loading.begin()
            wait([load], max(0.0, run.request.remaining()))
            self._check(run)
            if load.done() and isinstance(error := load.exception(), SecurityError):
                raise error
        encoder = self._encoder
        if encoder is not None:
            return encoder
        if self._failure:
            raise BackendUnavailable(self._failure, backend=self.name, reason="not_ready")
        raise self._closed_error()

    def _load(self) -> None:
        try:
            if self._config.trust is not None:
                verify_folder(self._config.model, self._config.trust)
            encoder = self._config.open_encoder()
            rank = 2 if self._task == CLASSIFY else 3
            if encoder.rank != rank:
                what = "one label for each token" if encoder.rank == 3 else "one label for a text"
                raise invalid(
                    encoder.source, f"{self._config.graph} gives {what}, which is not what `{self._task}` needs"
                )
        except Exception as error:
            self._failure = (
                str(error)
                if isinstance(error, ConfigError | SecurityError)
                else f"it cannot be loaded: {type(error).__name__}"
            )
            log.warning("%s is not ready: %s", self.name, self._failure)
            raise
        self._encoder, self._failure = encoder, ""

    def _check(self, run: _Run) -> None:
        """Raise what ends *run* early, if anything does."""
        if self._closed:
            raise self._closed_error()
        if run.ended:
            raise BackendUnavailable("the request was cancelled", backend=self.name, reason="closed")
        if run.request.remaining() <= 0.0:
            elapsed = run.request.deadline - run.request.remaining()
            message = f"no complete answer within {run.request.deadline:g} s"
            raise DeadlineExceeded(message, backend=self.name, elapsed=elapsed)

    def _closed_error(self) -> BackendUnavailable:
        return BackendUnavailable("the backend is closed", backend=self.name, reason="closed")
