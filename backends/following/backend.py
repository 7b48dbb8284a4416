"""A backend whose model can be replaced while it answers: running requests end with the model that they began with.

It measures how each request goes, for the trial of a version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.following.follower import Follower
from hybrid_llm.backends.following.trial import Figures, Outcome, Tally
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import (
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    HybridLLMError,
    OutputInvalid,
    RequestRejected,
)
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.protocols import Abortable, Backend, Capabilities, SessionAware
from hybrid_llm.core.request import Location, Request
from hybrid_llm.core.signals import BackendState
from hybrid_llm.core.threads import close_aside, in_thread_or_here, release_dropped

if TYPE_CHECKING:
    from hybrid_llm.backends.following.keys import FollowSpec
    from hybrid_llm.backends.following.spec import Followable


class Served:
    """One model, how many requests run on it, and how they went."""

    def __init__(self, backend: Backend, version: str) -> None:
        self.backend: Final = backend
        self.version: Final = version
        """Its short digest in the registry; empty for a model that comes from elsewhere."""
        self.tally: Final = Tally()
        self.active = 0
        self.retired = False


class FollowingBackend:
    """Answers with the version of a model that an alias of a registry means; usable from many threads and loops."""

    location: Final = Location.EDGE
    """Prompts stay on this device."""

    def __init__(self, follow: FollowSpec, entry: Followable) -> None:
        """Begin with the version that is on this device, and look at the registry beside the requests.

        Raises:
            ConfigError: neither a version nor the model before the first one can be opened.
        """
        self.name: Final = entry.name
        """The name that policies and configurations use."""
        self._entry, self._lock, self._closed = entry, threading.Lock(), False
        self._origin = Origin()
        self.follower: Final = Follower(follow, self, entry.trust)
        """Looks at the registry; `check` does it now."""
        version, folder = self.follower.first()
        self._served = Served(self._open(folder, loaded=False), version)
        self._others: set[Served] = set()
        close_at_exit(self)
        self.follower.start()

    @property
    def version(self) -> str:
        """The short digest of the version that answers; empty before the first one has come."""
        return self._served.version

    @property
    def figures(self) -> Figures:
        """What the requests have shown of the version that answers."""
        with self._lock:
            return self._served.tally.figures

    @property
    def problem(self) -> str:
        """Why the version that answers is not ready; empty if it is."""
        state = self._served.backend.state()
        return "" if state.ready else state.reason or "it is not ready"

    @property
    def capabilities(self) -> Capabilities:
        """Those of the model that answers."""
        return self._served.backend.capabilities

    def state(self) -> BackendState:
        """The state of the model that answers; one on trial that is not ready is taken back soon."""
        served = self._served
        found = served.backend.state()
        if not found.ready:
            self.follower.counted(served.version)
        return found

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt, as the model that answers counts them."""
        return self._served.backend.count_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer by the model that answers now; another one that comes meanwhile changes nothing for this request.

        Raises:
            PrivacyViolation, BackendError: as the backend of the model does.
        """
        served, measured = self._enter(), _Measured()
        try:
            with closing(served.backend.stream(cleared)) as chunks:
                for chunk in chunks:
                    measured.add(chunk)
                    yield chunk
        except BaseException as error:
            measured.end(error)
            raise
        finally:
            self._leave(served, measured.outcome)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        served, measured = self._enter(), _Measured()
        try:
            async with aclosing(served.backend.astream(cleared)) as chunks:
                async for chunk in chunks:
                    measured.add(chunk)
                    yield chunk
        except BaseException as error:
            measured.end(error)
            raise
        finally:
            self._leave(served, measured.outcome)

    def abort(self, request_id: str) -> None:
        """End the runs of this request; from any thread."""
        for served in self._all():
            if isinstance(served.backend, Abortable):
                served.backend.abort(request_id)

    def forget(self, session_id: str, tenant: str | None) -> None:
        """Drop what a session left in memory."""
        for served in self._all():
            if isinstance(served.backend, SessionAware):
                served.backend.forget(session_id, tenant)

    def replace(self, folder: Path, version: str) -> None:
        """Answer new requests with the model in *folder*, once it is loaded.

        Raises:
            ConfigError, SecurityError: it cannot be loaded; nothing has changed.
            BackendUnavailable: this backend is closed.
        """
        new = Served(self._open(folder, loaded=True), version)
        with self._lock:
            old = self._served
            if not self._closed:
                self._served = new
                old.retired = True
                self._others.add(old)
            done = new if self._closed else old if not old.active else None
        if done is not None:
            self._release(done)
        if done is new:
            raise BackendUnavailable("the backend is closed", backend=self.name, reason="closed")

    def close(self) -> None:
        """End running requests with `BackendUnavailable`, and release the models. Idempotent."""
        if not self._origin.is_here:
            return
        with self._lock:
            self._closed = True
        self.follower.close()
        for served in self._all():
            served.backend.close()

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        await close_aside("hybrid-llm-follow-close", self.close)

    def __del__(self) -> None:
        follower = getattr(self, "follower", None)
        if follower is not None and not self._closed:
            release_dropped(self, "FollowingBackend", follower.close)

    def _open(self, folder: Path | None, *, loaded: bool) -> Backend:
        return (self._entry if folder is None else self._entry.with_model(folder, loaded=loaded)).open()

    def _all(self) -> tuple[Served, ...]:
        with self._lock:
            return (self._served, *self._others)

    def _enter(self) -> Served:
        self._origin.check(f"the model of {self.name} was opened")
        with self._lock:
            self._served.active += 1
            return self._served

    def _leave(self, served: Served, outcome: Outcome | None) -> None:
        with self._lock:
            served.active -= 1
            if outcome is not None:
                served.tally.add(outcome)
            last = served.retired and not served.active
        if last:
            in_thread_or_here("hybrid-llm-follow-close", lambda: self._release(served))
        elif outcome is not None:
            self.follower.counted(served.version)

    def _release(self, served: Served) -> None:
        with self._lock:
            self._others.discard(served)
        served.backend.close()


class _Measured:
    """The times of one request, and how it ended."""

    __slots__ = ("_begun", "_first", "_last", "_tokens", "outcome")

    def __init__(self) -> None:
        self._begun = time.perf_counter()
        self._first = self._last = 0.0
        self._tokens = 0
        self.outcome: Outcome | None = None
        """None while nothing can be said of the model: the caller has left, or asked what no model answers."""

    def add(self, chunk: Chunk) -> None:
        self._last = time.perf_counter()
        self._first = self._first or self._last
        self._tokens += chunk.tokens
        if chunk.finish_reason is not None:
            self.outcome = self._outcome(failed=chunk.finish_reason == "repetition")

    def end(self, error: BaseException) -> None:
        ours = isinstance(error, BackendError) and not isinstance(error, BackendOverloaded | RequestRejected)
        if ours or isinstance(error, OutputInvalid) or _is_fault(error):
            self.outcome = self._outcome(failed=True)

    def _outcome(self, *, failed: bool) -> Outcome:
        further = self._tokens - 1
        return Outcome(
            failed=failed,
            ttft_ms=(self._first - self._begun) * 1e3 if self._first else None,
            tpot_ms=(self._last - self._first) * 1e3 / further if further > 0 else None,
        )


def _is_fault(error: BaseException) -> bool:
    """Whether a model, or what runs it, raised what nobody foresaw."""
    return isinstance(error, Exception) and not isinstance(error, HybridLLMError)
