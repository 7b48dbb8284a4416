"""What apps do: many requests at once, sync and async, whole and streamed, some with a schema, some given up."""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.router.client import HybridLLM
from tests.chaos.exact import SCHEMA, answer_to, prompt_of

KINDS = ("generate", "stream", "agenerate", "astream", "leave", "aleave", "cancel")
"""`leave` closes a stream after a few pieces, `cancel` cancels the task; the others want the whole answer."""
_WEIGHTS = (4, 3, 4, 3, 1, 1, 1)
_HURRIED_S = (0.2, 0.8)
_TIME_S = (30.0, 60.0)
"""Deadlines. An answer takes less than 0.3 s on an idle machine: of these the second ones end only what hangs."""
_HANGS_S = 5.0
"""Seconds after its deadline at which a request that has not ended is taken for lost."""

Judge = Callable[["Outcome"], bool]
"""Whether what the app was given is right, as far as it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request, and how it is asked."""

    kind: str
    prompt: str
    deadline: float
    hurried: bool = False
    """The deadline is meant to end it; the others have time on a busy machine too."""
    schema: Mapping[str, object] | None = None
    far: bool = False
    """Only a node may answer it."""
    private: bool = False
    """It may not leave the device."""
    session: str | None = None
    pieces: int = 0
    """After so many pieces the caller leaves."""
    max_tokens: int = 4096
    temperature: float = 0.0

    def options(self) -> dict[str, object]:
        return {
            "deadline": self.deadline,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "task": "far" if self.far else "chat",
            "session_id": self.session,
            "output_schema": self.schema,
            "privacy": {"private"} if self.private else set(),
        }


@dataclass(slots=True, eq=False)
class Outcome:
    """What came of it; times are those of `time.monotonic()`."""

    case: Case
    judge: Judge
    continues: bool = False
    """Its client continues answers that break off."""
    began: float = 0.0
    ended: float = 0.0
    first: float = 0.0
    left: float = 0.0
    """When the caller gave up."""
    text: str = ""
    generation: Generation | None = None
    error: BaseException | None = None

    def take(self, chunk: Chunk) -> None:
        self.first = self.first or time.monotonic()
        self.text += chunk.text

    @property
    def over_s(self) -> float:
        """Seconds after the deadline at which it ended; negative before."""
        return self.ended - self.began - self.case.deadline

    @property
    def lost(self) -> bool:
        """It never ended, ended in something untyped, or as if it were whole when it is not."""
        if not self.ended:
            return True
        if self.error is not None:
            return not isinstance(self.error, HybridLLMError)
        return self.generation is None and not self.left

    @property
    def wrong(self) -> bool:
        """The app was given something else than the right answer, or than its beginning."""
        return not self.judge(self)

    @property
    def whole(self) -> bool:
        """The app was told that this is the whole answer."""
        return self.generation is not None and not self.left


def is_exact(outcome: Outcome) -> bool:
    """Whether an answer of the exact engine is right, or as far as it goes."""
    right = answer_to(outcome.case.prompt)
    if outcome.whole and outcome.generation is not None:
        return outcome.generation.text == outcome.text == right
    return right.startswith(outcome.text)


def make_cases(random_: random.Random, numbers: itertools.count, count: int) -> list[Case]:
    """Requests of every kind; a tenth is hurried."""
    return [_case(random_, next(numbers)) for _ in range(count)]


def _case(random_: random.Random, number: int) -> Case:
    kind = random_.choices(KINDS, _WEIGHTS)[0]
    schema = random_.random() < 0.25
    # A caller who leaves does so while there is much to come, so that it can be seen when the work ends.
    words = 400 if kind in {"leave", "aleave", "cancel"} else random_.choice((3, 12, 40))
    hurried = random_.random() < 0.1
    return Case(
        kind=kind,
        prompt=prompt_of(number, words, is_json=schema),
        deadline=random_.uniform(*(_HURRIED_S if hurried else _TIME_S)),
        hurried=hurried,
        schema=SCHEMA if schema else None,
        far=random_.random() < 0.3,
        session=f"s{number % 7}" if random_.random() < 0.2 else None,
        pieces=random_.randint(1, 4),
    )


class Traffic:
    """Threads and tasks that work off cases, each asking one of *clients*. `finish` waits for all of them."""

    def __init__(self, clients: Sequence[HybridLLM], judge: Judge, *, threads: int = 8, tasks: int = 8) -> None:
        self._clients = itertools.cycle(clients)
        self._judge = judge
        self.outcomes: list[Outcome] = []
        self._sync: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
        self._async: queue.SimpleQueue[Case | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        self._threads += [threading.Thread(target=self._loop, args=(tasks,), daemon=True)]
        self._tasks = tasks
        self._stop = False
        for thread in self._threads:
            thread.start()

    def put(self, cases: Sequence[Case]) -> None:
        for case in cases:
            (self._async if case.kind in {"agenerate", "astream", "aleave", "cancel"} else self._sync).put(case)

    @property
    def waiting(self) -> int:
        return self._sync.qsize() + self._async.qsize()

    @property
    def done(self) -> int:
        return sum(outcome.ended > 0 for outcome in list(self.outcomes))

    def _begin(self, case: Case) -> tuple[HybridLLM, Outcome]:
        with self._lock:
            client = next(self._clients)
            outcome = Outcome(case, self._judge, continues=client.policy.resilience.continue_streams)
            self.outcomes.append(outcome)
        outcome.began = time.monotonic()
        return client, outcome

    def _work(self) -> None:
        while (case := self._sync.get()) is not None:
            client, outcome = self._begin(case)
            try:
                _ask(client, case, outcome)
            except BaseException as error:  # noqa: BLE001  # whatever it is, the judge decides
                outcome.error = error
            outcome.ended = time.monotonic()

    def _loop(self, tasks: int) -> None:
        asyncio.run(self._gather(tasks))

    async def _gather(self, tasks: int) -> None:
        await asyncio.gather(*(self._awork() for _ in range(tasks)))

    async def _awork(self) -> None:
        while True:
            try:
                case = self._async.get_nowait()
            except queue.Empty:
                if self._stop:
                    return
                await asyncio.sleep(0.005)
                continue
            client, outcome = self._begin(case)
            try:
                await _aask(client, case, outcome)
            except BaseException as error:  # noqa: BLE001  # as above
                outcome.error = error
            outcome.ended = time.monotonic()

    def take_ended(self) -> list[Outcome]:
        """What has ended, which is forgotten here."""
        with self._lock:
            ended = [outcome for outcome in self.outcomes if outcome.ended]
            self.outcomes = [outcome for outcome in self.outcomes if not outcome.ended]
        return ended

    def drain(self, until: Callable[[], bool] = lambda: False, seconds: float = 60.0) -> None:
        """Wait until all that was put has been begun, or *until* holds."""
        limit = time.monotonic() + seconds
        while self.waiting and not until() and time.monotonic() < limit:
            time.sleep(0.01)

    def finish(self) -> list[Outcome]:
        """Let every request end; one that hangs for seconds after its deadline stays without an end."""
        self._stop = True
        for _ in self._threads[:-1]:
            self._sync.put(None)
        while any(thread.is_alive() for thread in self._threads) and not self._hangs():
            time.sleep(0.02)
        return self.outcomes

    def _hangs(self) -> bool:
        """Whether all that runs should have ended seconds ago."""
        now = time.monotonic()
        running = [outcome for outcome in list(self.outcomes) if outcome.began and not outcome.ended]
        return bool(running) and all(now > o.began + o.case.deadline + _HANGS_S for o in running)


def _ask(client: HybridLLM, case: Case, outcome: Outcome) -> None:
    if case.kind == "generate":
        outcome.generation = client.generate(case.prompt, **case.options())
        outcome.text = outcome.generation.text
        return
    with client.stream(case.prompt, **case.options()) as stream:
        for number, chunk in enumerate(stream, 1):
            outcome.take(chunk)
            if case.kind == "leave" and number >= case.pieces and chunk.finish_reason is None:
                outcome.left = time.monotonic()
                return
        outcome.generation = stream.generation


async def _aask(client: HybridLLM, case: Case, outcome: Outcome) -> None:
    if case.kind == "agenerate":
        outcome.generation = await client.agenerate(case.prompt, **case.options())
        outcome.text = outcome.generation.text
    elif case.kind == "cancel":
        await _cancel(client, case, outcome)
    else:
        await _astream(client, case, outcome)


async def _astream(client: HybridLLM, case: Case, outcome: Outcome) -> None:
    async with client.astream(case.prompt, **case.options()) as stream:
        async for chunk in stream:
            outcome.take(chunk)
            if case.kind == "aleave" and len(outcome.text) > 12 * case.pieces and chunk.finish_reason is None:
                outcome.left = time.monotonic()
                return
        outcome.generation = stream.generation


async def _cancel(client: HybridLLM, case: Case, outcome: Outcome) -> None:
    task = asyncio.create_task(_astream(client, case, outcome))
    done, _ = await asyncio.wait({task}, timeout=0.03 * case.pieces)
    if done:
        await task
        return
    outcome.left = time.monotonic()
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return
