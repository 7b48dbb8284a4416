"""A task for many texts: a few at once, results in order, errors beside them, and a bar that shows how far it is."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Protocol, TypeVar

from hybrid_llm.core.looks import caller_left
from hybrid_llm.core.threads import in_thread
from hybrid_llm.router.tasks.checks import checked_count

S = TypeVar("S")
T = TypeVar("T")
_MOST_AT_ONCE: Final = 256
_LEAVING_S: Final = 10.0
"""How long a batch that is interrupted waits for what runs: a step of a model, or the whole of other work."""
Report = Callable[[int, int | None], object]
"""Called after each item with how many are done, and how many there are, if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[T]):
    """What became of one item: a value, or the error that it raised."""

    value: T | None = field(default=None, repr=False)
    error: Exception | None = None

    def unwrap(self) -> T:
        """The value; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # without an error there is a value


class _Items(Generic[S]):
    """The items that are left, with their numbers; threads share it."""

    def __init__(self, items: Iterable[S]) -> None:
        self._numbered = enumerate(items)
        self._lock = threading.Lock()

    def next(self) -> tuple[int, S] | None:
        with self._lock:
            return next(self._numbered, None)


def batch(
    work: Callable[[S], T], items: Iterable[S], *, concurrency: int = 4, progress: bool | Report = False
) -> list[Outcome[T]]:
    """Do *work* for each of *items*, *concurrency* at once, each in a thread.

        outcomes = tasks.batch(lambda text: tasks.classify(text, LABELS), texts, progress=True)

    An item whose work raises has its error in its outcome, and the others go on. An interrupt (Ctrl-C) ends what runs
    within a step of the model, begins nothing more, and is raised.

    Args:
        work: A function of one item, such as a lambda around a task.
        items: The texts, or whatever *work* takes; an iterator is read as results are wanted.
        concurrency: How many items at once, 1 to 256. A device gains little from more than its backend runs at once.
        progress: True shows a bar on standard error, by tqdm where it is installed; a function is called instead.

    Returns:
        An outcome for each item, in the order of *items*.
    """
    count = checked_count(concurrency, "concurrency", _MOST_AT_ONCE)
    left, source, found = threading.Event(), _Items(items), dict[int, Outcome[T]]()
    with _reporting(progress, items) as report:

        def loop() -> None:
            while not left.is_set() and (each := source.next()) is not None:
                found[each[0]] = _outcome(work, each[1])
                report()

        threads: list[Future[None]] = []
        token = caller_left.set(left)
        try:  # an interrupt may come while the threads are started
            for _ in range(count):
                threads.append(in_thread("hybrid-llm-batch", loop))
            for thread in threads:
                thread.result()
        except BaseException:
            left.set()
            wait(threads, _LEAVING_S)
            raise
        finally:
            caller_left.reset(token)
    return [found[number] for number in sorted(found)]


def _outcome(work: Callable[[S], T], item: S) -> Outcome[T]:
    try:
        return Outcome(value=work(item))
    except Exception as error:  # noqa: BLE001  # it is the outcome
        return Outcome(error=error)


async def abatch(
    work: Callable[[S], Awaitable[T]],
    items: Iterable[S],
    *,
    concurrency: int = 4,
    progress: bool | Report = False,
) -> list[Outcome[T]]:
    """Do as `batch` does with async *work*, in the event loop; cancelling the task cancels what runs."""
    count = checked_count(concurrency, "concurrency", _MOST_AT_ONCE)
    source, found = _Items(items), dict[int, Outcome[T]]()
    with _reporting(progress, items) as report:

        async def loop() -> None:
            while (each := source.next()) is not None:
                found[each[0]] = await _aoutcome(work, each[1])
                report()

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(count):
                    group.create_task(loop())
        except ExceptionGroup as errors:  # of the items' own iterator: what work raises is an outcome
            first = errors.exceptions[0]
            raise first from None
    return [found[number] for number in sorted(found)]


async def _aoutcome(work: Callable[[S], Awaitable[T]], item: S) -> Outcome[T]:
    try:
        return Outcome(value=await work(item))
    except Exception as error:  # noqa: BLE001  # it is the outcome
        return Outcome(error=error)


class _Bar(Protocol):
    """What shows how far a batch is."""

    def update(self, n: int) -> object:
        """*n* more items are done."""

    def close(self) -> object:
        """Show no more."""


@contextmanager
def _reporting(progress: bool | Report, items: Iterable[Any]) -> Iterator[Callable[[], None]]:  # noqa: FBT001
    """What is called after each item, from any thread."""
    total = len(items) if isinstance(items, Sized) else None
    if not progress:
        yield lambda: None
        return
    bar = _bar(total) if progress is True else None
    lock, done = threading.Lock(), 0

    def report() -> None:
        nonlocal done
        with lock:
            done += 1
            if bar is not None:
                bar.update(1)
            elif callable(progress):
                progress(done, total)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def _bar(total: int | None) -> _Bar:
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(total)
    made: _Bar = tqdm(total=total, unit="item", file=sys.stderr)
    return made


class _Lines:
    """A line on standard error for each tenth, or each hundred items where their number is not known."""

    def __init__(self, total: int | None) -> None:
        self._total, self._done = total, 0
        self._every = max(1, (total or 1000) // 10)

    def update(self, n: int) -> None:
        self._done += n
        if self._done % self._every == 0 or self._done == self._total:
            of = f" of {self._total}" if self._total is not None else ""
            sys.stderr.write(f"{self._done}{of} items done\n")

    def close(self) -> None:
        sys.stderr.flush()
