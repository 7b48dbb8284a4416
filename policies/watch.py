"""Keeps the policy of a file in force while the file changes: one reference, swapped whole; no request ever waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.request import Location
from hybrid_llm.policies.language.schema import KNOWN_DETECTORS
from hybrid_llm.policies.load import load_policy
from hybrid_llm.policies.policy import Policy

_log = logging.getLogger("hybrid_llm.policies")
_Stamp = tuple[int, ...]


class PolicySource(Protocol):
    """Where the policy of the moment comes from: fixed, or a file that is watched."""

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


class PolicyFile:
    """A policy file that is looked at again and again. `current` is always a whole, checked policy.

    The first load must succeed. Nothing watches until `start()`; `reload()` looks once, in the caller's thread.

    Args:
        path: The file. It may be replaced by an editor, or be a link that is moved, as Kubernetes does.
        backends: As for `load_policy`.
        interval: Seconds between two looks. A change is loaded once two looks in a row see the same file, so that one
            that is still being written is not taken for whole; with the default it is in force within a second.
        on_reload: Called with each policy that comes into force, by the watching thread.
        on_error: Called with each fault that keeps a file from coming into force.
        detectors: As for `load_policy`.

    Raises:
        PolicyError: the file does not hold a policy at the start.
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
    ) -> None:
        if not interval > 0:
            raise ConfigError(f"interval must be more than 0 seconds, not {interval}", path=str(path))
        self._path = path
        self._backends = dict(backends) if backends is not None else None
        self._interval = interval
        self._on_reload = on_reload
        self._on_error = on_error
        self._detectors = detectors
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._stamp = _stamp(path)
        self._error: PolicyError | None = None
        self._current = self._load()

    @property
    def current(self) -> Policy:
        """The policy in force."""
        return self._current

    @property
    def error(self) -> PolicyError | None:
        """Why the file as it stands is not in force; None while it is."""
        return self._error

    def start(self) -> None:
        """Watch from now on, in a thread of its own that does not keep the process alive."""
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._watch, name="hybrid-llm-policy", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop watching. `current` stays."""
        self._closed.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> PolicyFile:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reload(self) -> bool:
        """Look once, and load the file if it changed. True when another policy came into force."""
        with self._turn:
            stamp = _stamp(self._path)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            return self._swap()

    def _swap(self) -> bool:
        try:
            policy = self._load()
        except PolicyError as error:
            self._refuse(error)
            return False
        self._error = None
        if policy.digest == self._current.digest:
            return False
        self._current = policy
        _log.info("policy %s (%s) is in force", policy.name, policy.digest)
        if self._on_reload is not None:
            self._on_reload(policy)
        return True

    def _refuse(self, error: PolicyError) -> None:
        self._error = error
        _log.error("the policy file is refused, %s stays in force:\n%s", self._current.digest, error)
        if self._on_error is not None:
            self._on_error(error)

    def _load(self) -> Policy:
        if self._backends is None:
            return load_policy(self._path, detectors=self._detectors)
        return load_policy(self._path, self._backends, detectors=self._detectors)

    def _watch(self) -> None:
        seen = self._stamp
        while not self._closed.wait(self._interval):
            before, seen = seen, _stamp(self._path)
            if seen != before or seen == self._stamp:
                continue
            try:
                self.reload()
            except Exception:  # noqa: BLE001 - a caller's callback failed; the watch must outlive it
                _log.exception("a callback of the policy watch failed")


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file does; it follows links, so a moved link shows. None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_size
