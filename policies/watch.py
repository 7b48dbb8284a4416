"""Reloads a file when it changes, such as a policy: one reference is swapped, and no request ever waits."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar
from weakref import ReferenceType, ref

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.files import stamp_of
from hybrid_llm.core.request import Location
from hybrid_llm.core.threads import release_dropped, started
from hybrid_llm.policies.language.schema import KNOWN_DETECTORS
from hybrid_llm.policies.load import EDGE_AND_CLOUD, load_policy
from hybrid_llm.policies.policy import Policy

_log = logging.getLogger("hybrid_llm.policies")
T = TypeVar("T")


class PolicySource(Protocol):
    """Provides the policy that decides now: fixed, or from a file that is watched."""

    @property
    def current(self) -> Policy:
        """The policy that decides now."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...


class FixedPolicy:
    """A source whose policy never changes."""

    def __init__(self, policy: Policy) -> None:
        self.current = policy

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""


class WatchedFile(ABC, Generic[T]):
    """A file whose content is loaded anew when it changes. `current` is always complete and valid.

    The first load must succeed. Nothing is watched until `start()`; `reload()` checks once, in the caller's thread.

    Args:
        path: The file. It may be replaced, as editors do, or be a link that is moved, as Kubernetes does.
        what: Its content in the log, such as "policy".
        interval: Seconds between two checks. A change is loaded once two checks in a row see the same file, so that no
            half-written file is read; with the default it takes effect within a second.
        on_reload: Called with each content that takes effect, by the watching thread.
        on_error: Called with the error of each file that is rejected.

    Raises:
        PolicyError: the file does not hold a valid content at the start.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        interval: float,
        on_reload: Callable[[T], None] | None,
        on_error: Callable[[PolicyError], None] | None,
    ) -> None:
        if not interval > 0:
            raise ConfigError(f"interval must be more than 0 seconds, not {interval}", path=str(path))
        self._path = path
        self._what = what
        self._interval = interval
        self._on_reload = on_reload
        self._on_error = on_error
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._stamp = stamp_of(path)
        self._seen = self._stamp
        self._error: PolicyError | None = None
        self._current = self._load()

    @property
    def current(self) -> T:
        """What holds now."""
        return self._current

    @property
    def error(self) -> PolicyError | None:
        """Why the file was rejected when it was last loaded; None if it was not."""
        return self._error

    def start(self) -> None:
        """Watch from now on, in a daemon thread."""
        if self._thread is None and not self._closed.is_set():
            self._seen, watched = self._stamp, (ref(self), self._closed, self._interval)
            self._thread = started(_watch, *watched, name=f"hybrid-llm-{self._what}")

    def close(self) -> None:
        """Stop watching. `current` stays."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reload(self) -> bool:
        """Check once, and load the file if it changed. True if another content takes effect."""
        with self._turn:
            stamp = stamp_of(self._path)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            return self._swap()

    @abstractmethod
    def _load(self) -> T:
        """What the file holds; raises PolicyError."""

    @abstractmethod
    def _digest(self, content: T) -> str:
        """What tells *content* from any other."""

    def _name(self, content: T) -> str:  # noqa: ARG002
        """The name of *content* in the log, if it has one."""
        return ""

    def _swap(self) -> bool:
        digest = self._digest(self._current)
        try:
            found = self._load()
        except PolicyError as error:
            self._error = error
            _log.error("the %s file is rejected, %s stays in effect:\n%s", self._what, digest, error)
            if self._on_error is not None:
                self._on_error(error)
            return False
        self._error = None
        if self._digest(found) == digest:
            return False
        self._current = found
        _log.info("%s %s(%s) takes effect", self._what, self._name(found), self._digest(found))
        if self._on_reload is not None:
            self._on_reload(found)
        return True

    def _check_twice(self) -> None:
        """Load the file if it changed and two checks in a row saw the same."""
        before, self._seen = self._seen, stamp_of(self._path)
        if self._seen != before or self._seen == self._stamp:
            return
        try:
            self.reload()
        except Exception:  # noqa: BLE001 - a caller's callback failed; the watch must outlive it
            _log.exception("a callback of the %s watch failed", self._what)

    def __del__(self) -> None:
        if getattr(self, "_thread", None) is not None and not self._closed.is_set():
            release_dropped(self, type(self).__name__, self._closed.set)


class PolicyFile(WatchedFile[Policy]):
    """A policy file that is watched. `current` is always a complete, valid policy.

    Args:
        path: As for `WatchedFile`.
        backends: As for `load_policy`.
        interval: As for `WatchedFile`.
        on_reload: Called with each policy that takes effect, by the watching thread.
        on_error: Called with the error of each file that is rejected.
        detectors: As for `load_policy`.
        check: Called with each policy before it takes effect; it raises `PolicyError` to reject the policy.

    Raises:
        PolicyError: the file does not hold a valid policy at the start.
    """

    def __init__(
        self,
        path: Path,
        backends: Mapping[str, Location] | None = None,
        interval: float = 0.25,
        on_reload: Callable[[Policy], None] | None = None,
        on_error: Callable[[PolicyError], None] | None = None,
        *,
        detectors: frozenset[str] = KNOWN_DETECTORS,
        check: Callable[[Policy], None] | None = None,
    ) -> None:
        self._backends = dict(EDGE_AND_CLOUD if backends is None else backends)
        self._detectors = detectors
        self._check = check
        super().__init__(path, "policy", interval, on_reload, on_error)

    def _load(self) -> Policy:
        policy = load_policy(self._path, self._backends, detectors=self._detectors)
        if self._check is not None:
            self._check(policy)
        return policy

    def _digest(self, content: Policy) -> str:
        return content.digest

    def _name(self, content: Policy) -> str:
        return f"{content.name} "


def _watch(watched: ReferenceType[WatchedFile[Any]], closed: threading.Event, interval: float) -> None:
    """Check every *interval* seconds, for as long as somebody else has the source."""
    while not closed.wait(interval) and (source := watched()) is not None:
        source._check_twice()
        del source
