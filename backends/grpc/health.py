"""Finds out beside the calls whether a node can be reached and trusted: one look at a time, however many wait for it.

A node that cannot be reached or trusted is `in_doubt`; one that does not answer at all is `silent` as well. It is
looked at again and again, with growing, jittered pauses (full jitter; Brooker, *Exponential Backoff and Jitter*, 2015),
so that no request has to find out, and many clients that find their way back at the same time are no storm. It knows no
calls; what a look does is injected.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from hybrid_llm.backends.wire.handshake import is_silence
from hybrid_llm.core.errors import BackendUnavailable

Look = Future[Exception | None]
"""What a look found: nothing wrong, or why the node cannot be used."""
_QUICK_S: Final = (1.0, 2.0)
"""How long a node that is under suspicion gets to answer: at least, and where it never answered before; seconds."""
_TIMES_USUAL: Final = 5.0
"""It gets so many times what it took before."""
_DRAGS_S: Final = 0.2
"""After so long without an end a look does not bode well, seconds."""
_AGAIN_S: Final = 1.0
"""A node that is under suspicion again and again is looked at no more often than this, seconds."""
_PAUSES_S: Final = (0.25, 5.0)
"""The first pause between two looks at a silent node and, doubled each time, the longest; seconds."""


class Way:
    """The way to one node. Safe to use from any thread; a thread of its own runs while there is something to find out.

    Args:
        look: Does a handshake within the seconds that it is given; raises as `shake_hands` does.
        longest: Seconds that a look may take.
        name: The backend, for errors.
        on_silence: Called, from the thread that looked, when the node has become silent.
        has_way: Whether this machine could send to the node now; nothing is sent to find that out.
        interest: Seconds for which it is looked at though nobody wants to know.
    """

    def __init__(
        self,
        look: Callable[[float], None],
        *,
        longest: float,
        name: str,
        on_silence: Callable[[], object],
        has_way: Callable[[], bool] = lambda: True,
        interest: float = 60.0,
    ) -> None:
        self._interest = interest
        self._look = look
        self._longest = longest
        self._name = name
        self._on_silence = on_silence
        self._has_way = has_way
        self._lock = threading.Lock()
        self._looking: Look | None = None
        self._closed = threading.Event()
        self._heard = self._looked = float("-inf")
        self._found: Exception | None = None
        self._watched = False
        self._took = self._wanted = 0.0

    @property
    def in_doubt(self) -> bool:
        """The last look failed; another one is on its way."""
        if self._found is None:
            return False
        self._wanted = time.monotonic()
        return True

    @property
    def fault(self) -> str:
        """The name of the error's class that the last look ended with; empty where it found nothing wrong."""
        found = self._found
        return "" if found is None else type(found).__name__

    @property
    def silent(self) -> bool:
        """It failed because no answer came, so that whoever asks would only wait."""
        return self.in_doubt and _is_silent(self._found)

    def drags_since(self) -> float | None:
        """When the look began that is under way, if it should be over by now."""
        looked = self._looked
        drags = self._looking is not None and time.monotonic() - looked > _DRAGS_S
        return looked if drags else None

    def prove(self, timeout: float) -> None:
        """Make sure that the node can be reached and trusted, and trusts us; wait at most *timeout* seconds.

        Raises:
            BackendUnavailable, UntrustedPeer, AuthenticationFailed: see `shake_hands`.
        """
        try:
            _raise(self._begun(self._longest).result(timeout))
        except TimeoutError:
            raise self._unreachable(timeout) from None

    async def aprove(self, timeout: float) -> None:
        """Do as `prove` does, without blocking the event loop."""
        look = asyncio.wrap_future(self._begun(self._longest))
        done, _ = await asyncio.wait({look}, timeout=timeout)
        if not done:
            raise self._unreachable(timeout)
        _raise(look.result())

    def heard(self) -> None:
        """The node has said something."""
        self._heard = time.monotonic()

    def suspect(self, since: float) -> None:
        """A call that began at the instant *since* got nothing: look whether the node is there at all.

        Not where it said something to another call meanwhile, nor where it was looked at a moment ago and the way has
        not been lost since.
        """
        now = time.monotonic()
        if self._heard > since or self._looking is not None or self._closed.is_set():
            return
        if now - self._looked < _AGAIN_S and self._has_way():
            return
        usual = _TIMES_USUAL * self._took if self._took else _QUICK_S[1]
        self._begun(min(self._longest, max(_QUICK_S[0], usual)))

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _unreachable(self, timeout: float) -> BackendUnavailable:
        return BackendUnavailable(f"{self._name} could not be reached within {timeout:.1f} s", backend=self._name)

    def _begun(self, limit: float) -> Look:
        """The look that is under way, or a new one; of a silent node the last one."""
        with self._lock:
            if self.silent:
                last: Look = Future()
                last.set_result(self._found)
                return last
            if self._looking is None:
                self._looking, self._looked = Future(), time.monotonic()
                name = f"hybrid-llm-way-{self._name}"
                threading.Thread(target=self._run, args=(self._looking, limit), name=name, daemon=True).start()
            return self._looking

    def _run(self, look: Look, limit: float) -> None:
        """Look once; go on looking while the node is in doubt."""
        error = self._try(limit)
        with self._lock:
            self._looking = None
            begins = error is not None and not self._watched
            self._watched = self._watched or begins
        look.set_result(error)
        if _is_silent(error):
            self._on_silence()
        if begins:
            self._watch()

    def _try(self, limit: float) -> Exception | None:
        began = self._looked = time.monotonic()
        try:
            self._look(limit)
        except Exception as error:  # noqa: BLE001  # whoever waits for the look raises it
            self._found = error
            return error
        self._found, self._took = None, time.monotonic() - began
        self.heard()
        return None

    def _watch(self) -> None:
        """Look again and again, for as long as somebody wants to know; at once where a lost way is there again."""
        self._wanted = time.monotonic()
        first, longest = _PAUSES_S
        pause = first
        while not self._closed.wait(random.uniform(pause / 2, pause)):  # noqa: S311  # jitter is no secret
            if self._is_over():  # somebody who asked has found it
                return
            lost = not self._has_way()
            pause = first if lost else min(longest, 2 * pause)
            if lost and time.monotonic() - self._looked < longest:
                continue
            self._try(self._longest)
            if self._is_over():
                return

    def _is_over(self) -> bool:
        """Whether there is nothing to be found out any more; whoever finds a fault after that watches anew."""
        with self._lock:
            if time.monotonic() - self._wanted > self._interest:
                self._found = None  # whoever asks next finds out
            self._watched = self._found is not None
            return not self._watched


def _is_silent(error: Exception | None) -> bool:
    """Whether nothing came within the time, or nothing can be sent; rather than a refusal."""
    return isinstance(error, BackendUnavailable) and is_silence(error.__cause__)


def _raise(error: Exception | None) -> None:
    """Raise what a look found; a copy, since several may wait for one look, in several threads."""
    if error is not None:
        copy = type(error).__new__(type(error), *error.args)
        copy.__dict__.update(error.__dict__)
        raise copy from error.__cause__
