"""Work in threads, for threads and event loops that wait no longer than they have time; and what is never closed.

A caller that stops waiting leaves the work running; whatever it raises later is reported to nobody. An async generator
inside another is closed by that one alone.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from _thread import start_new_thread
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from contextvars import copy_context
from queue import SimpleQueue
from types import AsyncGeneratorType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeVar

from hybrid_llm.core.errors import HybridLLMError, UnsupportedRuntime
from hybrid_llm.core.looks import caller_left

if TYPE_CHECKING:
    from hybrid_llm.core.generation import Chunk

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
_THREADS: Final = 4


def started(target: Callable[..., object], *args: object, name: str) -> threading.Thread:
    """A daemon thread that runs *target*; store it only once it is returned, since no caller may wait for another.

    Raises:
        RuntimeError: this process can start no further thread, now.
    """
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread


def in_thread(name: str, call: Callable[[], T]) -> Future[T]:
    """Start *call* in a daemon thread of its own, with the context variables of the caller."""
    work: Future[T] = Future()
    context = copy_context()
    started(_settle, work, lambda: context.run(call), name=name)
    return work


def in_thread_or_here(name: str, call: Callable[[], T]) -> Future[T]:
    """Start *call* in a thread; where none can start, as whenever Python 3.12.0 to 3.12.2 exits, do it at once."""
    try:
        return in_thread(name, call)
    except RuntimeError:
        work: Future[T] = Future()
        _settle(work, call)
        return work


def _settle(work: Future[T], call: Callable[[], T]) -> None:
    try:
        work.set_result(call())
    except BaseException as error:  # noqa: BLE001  # who waits raises it
        work.set_exception(error)
    finally:
        del work, call  # the error's traceback has this frame


def in_event_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def require_asyncio() -> None:
    """Raise UnsupportedRuntime unless an event loop of asyncio runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return
    raise UnsupportedRuntime(
        "the async calls need an event loop of asyncio; under trio use the sync ones in a thread, such as "
        "`await trio.to_thread.run_sync(llm.generate, prompt)`"
    )


async def awaited(work: Future[T]) -> T:
    """Wait for *work* without blocking the event loop; cancelling the task does not stop it."""
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def arrive() -> None:
        if not arrived.done():
            arrived.set_result(None)

    def wake(_: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(arrive)

    # Not `asyncio.wrap_future`: the exception of a future that nobody waits for any more would be logged.
    work.add_done_callback(wake)
    await arrived
    return work.result()


async def close_aside(name: str, call: Callable[[], T]) -> T:
    """Do *call*, which closes something, in a thread of its own; at once where none can start: it must be closed."""
    return await awaited(in_thread_or_here(name, call))


class Once(Generic[T]):
    """A value that one thread makes when it is first needed, however many callers wait; a failure is tried again."""

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._name = name
        self._make = make
        self._lock = threading.Lock()
        self._work: Future[T] | None = None

    def begin(self) -> Future[T]:
        """The work that makes the value, begun if need be."""
        with self._lock:
            work = self._work
            if work is None or (work.done() and work.exception() is not None):
                work = self._work = in_thread(self._name, self._make)
            return work


def release_dropped(owner: object, what: str, release: Callable[[], object]) -> None:
    """Release what an *owner* holds that becomes garbage without having been closed, and warn; for its `__del__`.

    The release runs in a thread: garbage is collected wherever an allocation happens to be made, under any lock.
    """

    def begin() -> None:
        started(release, name="hybrid-llm-release")

    with suppress(RuntimeError):  # Python exits, and ends every thread
        start_new_thread(begin, ())  # `Thread.start` waits for locks, which the interrupted code may hold
    warnings.warn(f"unclosed {what}; call close, or use it in a with statement", ResourceWarning, 2, source=owner)


class Aside(Protocol):
    """How blocking work is done: in a thread for a caller with an event loop, at once for one without."""

    def __call__(self, call: Callable[[], T], drop: Callable[[T], object]) -> Awaitable[T]:
        """The result of *call*; *drop* gets a result that the caller did not wait for."""
        ...


async def at_once(call: Callable[[], T], drop: Callable[[T], object]) -> T:  # noqa: ARG001  # the Protocol's signature
    """Do *call* in the thread of a caller that has no event loop."""
    return call()


_Job = tuple[Future[Any], Callable[[], Any]]


class Pool:
    """At most *size* daemon threads, started when needed; the exit of Python waits for none of them, unlike for those
    of an executor.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Do *call* in one of the threads. Raises HybridLLMError once closed, or where no thread can be started."""
        work: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise closed_error()
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
                self._start()
            self._jobs.put((work, call))
        return work

    def _start(self) -> None:
        try:
            self._threads.append(started(_work, self._jobs, self._idle, name=self._name))
        except RuntimeError as error:
            if not self._threads:
                raise HybridLLMError(f"no thread can be started ({error}): raise the limit of threads") from error

    def close(self, *, join: bool = False) -> None:
        """Begin nothing more, and cancel what has not begun; *join*: wait for what runs. Idempotent."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
            while threads and not self._jobs.empty():
                if (job := self._jobs.get()) is not None:
                    job[0].cancel()
                    job[0].set_running_or_notify_cancel()
            self._end(len(threads))
        for thread in threads if join else ():
            thread.join()

    def _end(self, count: int) -> None:
        for _ in range(count):
            self._jobs.put(None)

    def __del__(self) -> None:
        self._end(len(getattr(self, "_threads", ())))


def _work(jobs: SimpleQueue[_Job | None], idle: threading.Semaphore) -> None:
    while (job := jobs.get()) is not None:
        work, call = job
        if work.set_running_or_notify_cancel():
            _settle(work, call)
        del job, work, call  # a thread that waits for work keeps none alive
        idle.release()


class Workers:
    """The few threads of a client, started when needed, for what would block an event loop: scanning, deciding."""

    def __init__(self) -> None:
        self._pool = Pool(_THREADS, "hybrid-llm-route")

    async def run(self, call: Callable[[], T], drop: Callable[[T], object]) -> T:
        """Do *call* in a thread, with the context variables of the caller, and wait for it.

        If the caller is cancelled, it does not wait: work that has begun is told at its next `check_deadline`, and
        *drop* gets what it returns all the same.
        """
        left = threading.Event()
        context = copy_context()
        context.run(caller_left.set, left)
        work = self._pool.submit(lambda: context.run(call))
        try:
            return await awaited(work)
        except CancelledError:
            raise closed_error() from None
        except BaseException:
            if not work.done() or not work.cancelled():
                left.set()
                work.cancel()
                work.add_done_callback(lambda done: _drop(done, drop))
            raise

    def close(self) -> None:
        """Do nothing more; what waits for a thread ends with an error. Idempotent."""
        self._pool.close()


def _drop(done: Future[T], drop: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        drop(done.result())


def closed_error() -> HybridLLMError:
    """The error of a call that comes after `close`."""
    return HybridLLMError("this client is closed; make a new one")


class Items(Protocol[T_co]):
    """What an async generator is to its consumer."""

    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Awaitable[T_co]: ...
    def aclose(self) -> Coroutine[Any, Any, None]:
        """Close it."""
        ...


def owned(items: AsyncIterable[T_co]) -> Items[T_co]:
    """*items* as their consumer alone closes them; without an event loop nobody else closes a generator anyway."""
    if type(items) is AsyncGeneratorType and sys.get_asyncgen_hooks().firstiter is None:
        return items
    return Owned(items)


class Owned(Generic[T_co]):
    """The items of an async generator, or of a plain async iterable, that its consumer alone closes, with `aclose`.

    An event loop closes the async generators that are left when it ends, and those that become garbage, in any order:
    an inner one while the outer one is closing it, which raises "asynchronous generator is already running". Asyncio
    learns of a generator by hooks that are read at its first step; these are switched off here for that moment.
    """

    __slots__ = ("_items", "_step")

    def __init__(self, items: AsyncIterable[T_co]) -> None:
        self._items = aiter(items)
        self._step = self._first

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T_co]:
        return self._step()

    def _first(self) -> Awaitable[T_co]:
        self._step = self._items.__anext__  # from now on without this detour
        before = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, _leave_to_owner)  # by position: it is done three times per request
        try:
            return self._items.__anext__()
        finally:
            sys.set_asyncgen_hooks(*before)

    async def aclose(self) -> None:
        """Close the generator; a plain iterator has nothing to close."""
        close = getattr(self._items, "aclose", None)
        if close is not None:
            await close()


def _leave_to_owner(_: AsyncGenerator[Any, Any]) -> None:
    """Do nothing: the owner is garbage too, the loop closes it, and it closes this one."""


class _End:
    """The end of an answer, with the error that ended it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class ThreadAnswer:
    """Made in the event loop, where `next` and `ended` are awaited; a thread calls `put`, and at last `end`.

    A consumer may leave at any time, and its loop may be closed: the thread is told, and nothing is logged.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Chunk | _End] = asyncio.Queue()
        self._over = False

    def put(self, chunk: Chunk) -> bool:
        """Deliver *chunk*; False if there is no loop any more."""
        return self._deliver(chunk)

    def end(self, error: BaseException | None) -> None:
        """The answer is complete, or ended with *error*."""
        self._deliver(_End(error))

    async def next(self) -> Chunk | None:
        """The next chunk; None after the last one. Raises what `end` was given."""
        item = await self._items.get()
        if not isinstance(item, _End):
            return item
        self._over = True
        if item.error is None:
            return None
        try:
            raise item.error
        finally:
            del item  # an error and the frame that raised it would hold each other

    async def ended(self) -> None:
        """Wait until the thread has ended the answer, whatever it still delivers."""
        while not self._over:
            self._over = isinstance(await self._items.get(), _End)

    def _deliver(self, item: Chunk | _End) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop is closed
            return False
        return True
