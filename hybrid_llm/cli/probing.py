"""Asks nodes what they are, beside a view of the signals, so that their state is known before the first request."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

from hybrid_llm.backends.base import Backend
from hybrid_llm.router.errors import HybridLLMError

__all__ = ["Prober"]

_TIMEOUT_S: Final = 2.0
_LEAST_PAUSE_S: Final = 2.0


@runtime_checkable
class _Probed(Protocol):
    """A backend that can be asked what it is."""

    def probe(self, *, timeout: float) -> Any:
        """Ask, within *timeout* seconds; raises HybridLLMError."""
        ...


class Prober:
    """Asks those of *backends* that can be asked, every *interval* seconds but not more often than every two.

    As a context manager it runs in a thread of its own for as long as it is open; without backends it does nothing.
    """

    def __init__(self, backends: Iterable[Backend], interval: float) -> None:
        self._backends = {backend.name: backend for backend in backends if isinstance(backend, _Probed)}
        self._pause = max(interval, _LEAST_PAUSE_S)
        self._faults: dict[str, str] = {}
        self._asked = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hybrid-llm-probe", daemon=True)

    @property
    def probes(self) -> bool:
        """Whether there is anybody to ask."""
        return bool(self._backends)

    @property
    def faults(self) -> tuple[str, ...]:
        """What is wrong with those that could not be asked, for people."""
        return tuple(self._faults.copy().values())

    def wait(self, seconds: float) -> tuple[str, ...]:
        """Wait until all were asked once; returns the faults."""
        if self.probes and not self._asked.wait(seconds):
            return (*self.faults, f"the nodes have not answered within {seconds:g} s")
        return self.faults

    def _run(self) -> None:
        while not self._over.is_set():
            for name in self._backends:
                self._ask(name)
            self._asked.set()
            self._over.wait(self._pause)

    def _ask(self, name: str) -> None:
        try:
            self._backends[name].probe(timeout=_TIMEOUT_S)
            self._faults.pop(name, None)
        except HybridLLMError as error:
            if not self._over.is_set():
                self._faults[name] = f"{name}: {error}"

    def __enter__(self) -> Self:
        if self.probes:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_TIMEOUT_S)
