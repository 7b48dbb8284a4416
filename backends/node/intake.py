"""What the callers of a node may hold of it: calls, bytes of requests, and time in which they neither send nor read.

gRPC bounds streams for each connection and the size of one message; it knows no client, and no sum. Requests are read
only once their client may hold them, so that what is refused is never received.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from hybrid_llm.backends.node.connections import Connections
from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import BackendOverloaded, DeadlineExceeded, RequestRejected
from hybrid_llm.core.fields import Number, Whole, key

_NODE: Final = "node"
_MEGABYTE: Final = 1024 * 1024
_RETRY_AFTER_S: Final = 0.5
LEAVING_S: Final = 0.1
"""Reads and writes fail when a client has left; within this time gRPC then cancels the handler, seconds."""
_SMALL: Final = 65_536
_LEAST_HOLD_S: Final = 1.0
_LOOK_S: Final = 0.1
"""How often a reader that takes nothing is looked at once its grace is over, seconds."""
NO_MESSAGE: Final = "the request is not a message of this protocol"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeLimits(Checked):
    """What callers may hold. A client is an identity: all connections that present certificates of one name."""

    max_connections: int = key(Whole(1), "Connections that are open at once; more are closed.", default=1024)
    max_streams: int = key(Whole(1), "Calls that are open at once on one connection; clients queue more.", default=128)
    max_client_calls: int = key(Whole(1), "Calls of one client that are open at once; more are refused.", default=256)
    max_calls: int = key(Whole(1), "Calls of all clients that are open at once; beyond, one of each.", default=1024)
    max_client_bytes: int = key(
        Whole(1),
        "Bytes of requests that one client may have on the node at once, and send in a second.",
        default=32 * _MEGABYTE,
    )
    max_request_bytes: int = key(
        Whole(1),
        "Bytes of requests that all clients may have on the node at once, and send in a second; beyond, one request "
        "of each.",
        default=64 * _MEGABYTE,
    )
    client_share: float = key(Number(0.0, 1.0), "Share of the queue that one client may fill.", default=0.75)
    read_timeout: float = key(Number(0.001, 3600), "Seconds within which a request must arrive whole.", default=10.0)
    write_timeout: float = key(
        Number(0.001, 3600), "Seconds for which a client may read nothing of an answer that waits for it.", default=10.0
    )
    stall_grace: float = key(
        Number(0.001, 3600),
        "Seconds for which a client may read nothing of an answer while others wait for its place.",
        default=1.0,
    )
    max_faults: int = key(
        Whole(1),
        "Calls that one connection may cancel within ten seconds; then it is closed. "
        "A request that never arrives whole, or an answer that is not read, counts for a tenth of this.",
        default=300,
    )


class Intake:
    """Admits the calls and requests of clients, within *limits*. Used from one event loop."""

    def __init__(self, limits: IntakeLimits, *, max_message_bytes: int) -> None:
        self._limits = limits
        self._largest = max_message_bytes
        self._calls: Counter[str] = Counter()
        self._bytes = Budget(
            max(limits.max_request_bytes, max_message_bytes), max(limits.max_client_bytes, max_message_bytes)
        )
        self.connections: Final = Connections(limits.max_faults)

    @contextmanager
    def call(self, client: str) -> Generator[None, None, None]:
        """Count one call of *client* as open.

        Raises:
            BackendOverloaded: the client, or all clients together, have as many calls open as is allowed.
        """
        if self._calls[client] >= self._limits.max_client_calls:
            raise _overloaded(f"this client has {self._calls[client]} calls open on the node, which takes no more")
        if self._calls[client] and self._calls.total() >= self._limits.max_calls:
            raise _overloaded(f"the node is full: {self._calls.total()} calls are open")
        self._calls[client] += 1
        try:
            yield
        finally:
            self._calls[client] -= 1
            if not self._calls[client]:
                del self._calls[client]

    @contextmanager
    def reserved(self, client: str) -> Generator[Reservation, None, None]:
        """Where the request of one call of *client* is counted, until the call ends."""
        reservation = Reservation(self._bytes, client)
        try:
            yield reservation
        finally:
            reservation.end()

    async def read(self, receive: Callable[[], Awaitable[Any]], reservation: Reservation, connection: str) -> bytes:
        """Return the request that *receive* reads from *connection*.

        Raises:
            RequestRejected: the stream ended without a request.
            BackendOverloaded: other requests held the memory all the time.
            DeadlineExceeded: the request did not arrive in time.
        """
        seconds = self._limits.read_timeout
        try:
            async with asyncio.timeout(seconds):
                # Its size is known only once it has arrived.
                await reservation.grow(self._largest)
                body = await receive()
        except TimeoutError:
            if not reservation.size:
                raise _overloaded("the node holds as many bytes of requests as it takes") from None
            self.connections.fault(connection, reservation.client, 0.1)
            text = f"the request did not arrive whole within {seconds:g} seconds"
            raise DeadlineExceeded(text, backend=_NODE, elapsed=seconds) from None
        if not isinstance(body, bytes):  # gRPC's mark of the end
            await asyncio.sleep(LEAVING_S)
            raise RequestRejected(NO_MESSAGE, backend=_NODE, reason="invalid_argument")
        reservation.shrink(len(body))
        return body

    async def write(
        self, send: Awaitable[None], connection: str, client: str, *, wanted: Callable[[], bool] = lambda: False
    ) -> None:
        """Await *send*, which returns once *client*, the reader at *connection*, has room for the message.

        *wanted* says whether others wait for the place of this call.

        Raises:
            DeadlineExceeded: the reader took nothing for too long.
        """
        limits = self._limits
        stall = _Stall(limits.write_timeout, limits.stall_grace, wanted)
        try:
            async with stall.timeout:
                stall.watch()
                await send
        except TimeoutError:
            if not stall.timeout.expired():
                raise
            self.connections.fault(connection, client, 0.1)
            seconds = stall.seconds()
            text = f"the answer was not read for {seconds:.3g} seconds"
            raise DeadlineExceeded(text, backend=_NODE, elapsed=seconds) from None
        finally:
            stall.end()


class _Stall:
    """Ends a write that waits for longer than *most* seconds, or than *grace* once its place is *wanted*."""

    def __init__(self, most: float, grace: float, wanted: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._most, self._grace, self._wanted = most, min(grace, most), wanted
        self._next: asyncio.TimerHandle | None = None
        self.timeout: Final = asyncio.timeout(None)

    def watch(self) -> None:
        """Look again when the grace is over, and from then on."""
        self._next = self._loop.call_at(self._began + self._grace, self._look)

    def _look(self) -> None:
        if self.seconds() >= self._most or self._wanted():
            self.timeout.reschedule(self._loop.time())
        else:
            self._next = self._loop.call_later(min(_LOOK_S, self._most - self.seconds()), self._look)

    def seconds(self) -> float:
        """Seconds since the write began."""
        return self._loop.time() - self._began

    def end(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()


def _overloaded(text: str) -> BackendOverloaded:
    return BackendOverloaded(text, backend=_NODE, retry_after=_RETRY_AFTER_S)


class Budget:
    """Bytes that are shared by clients: *total* in all, *each* at most for one. Waiting is fair within a client.

    A client that has none is not held to *total*, so that others cannot keep it out.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._used: Counter[str] = Counter()
        self._sum = 0
        self._waiting: deque[tuple[str, int, asyncio.Future[None]]] = deque()

    async def acquire(self, client: str, size: int) -> None:
        """Take *size* bytes for *client*, at most those that one may have; waits until they are free."""
        if self._fits(client, size) and not any(other == client for other, _, _ in self._waiting):
            self._take(client, size)
            return
        free = asyncio.get_running_loop().create_future()
        entry = (client, size, free)
        self._waiting.append(entry)
        try:
            await free
        except asyncio.CancelledError:
            if free.done() and not free.cancelled():
                self.release(client, size)
            else:
                self._waiting.remove(entry)
            raise

    def release(self, client: str, size: int) -> None:
        """Return *size* bytes of *client*, and let those who wait go on."""
        self._take(client, -size)
        if not self._used[client]:
            del self._used[client]
        for _ in range(len(self._waiting)):
            entry = other, wanted, free = self._waiting.popleft()
            if free.done() or not self._fits(other, wanted):
                self._waiting.append(entry)
                continue
            self._take(other, wanted)
            free.set_result(None)

    def _fits(self, client: str, size: int) -> bool:
        if not self._used[client]:  # whatever others hold, one request of each client goes on
            return True
        return self._sum + size <= self._total and self._used[client] + size <= self._each

    def _take(self, client: str, size: int) -> None:
        self._used[client] += size
        self._sum += size


class Reservation:
    """The bytes of one request."""

    def __init__(self, budget: Budget, client: str) -> None:
        self._budget: Final = budget
        self.client: Final = client
        self._since = 0.0
        self.size = 0
        """Bytes that are held."""

    async def grow(self, size: int) -> None:
        """Hold *size* bytes more; waits until they are free."""
        await self._budget.acquire(self.client, size)
        self._since = asyncio.get_running_loop().time()
        self.size += size

    def shrink(self, size: int) -> None:
        """Hold no more than *size* bytes."""
        if size < self.size:
            self._budget.release(self.client, self.size - size)
            self.size = size

    def end(self) -> None:
        """Hold nothing more; a large request counts for a second, since receiving it takes milliseconds of the loop."""
        loop = asyncio.get_running_loop()
        early = self._since + _LEAST_HOLD_S - loop.time()
        if self.size <= _SMALL or early <= 0:
            self.shrink(0)
        else:
            loop.call_later(early, self.shrink, 0)
