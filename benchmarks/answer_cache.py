"""What a cached answer costs: CPU of a hit and of storing one, in memory and on disk, beside a plain row of SQLite.

python -m benchmarks answer_cache

All cases are interleaved in one run. The floor is what a cache without encryption, clearance and limits does: the plain
answer as JSON under a hash of the prompt, in WAL mode. `generate` is the whole request that hits.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks._run import parsed, parser
from hybrid_llm.core.clearance import Cleared, Purpose
from hybrid_llm.core.generation import FinishReason, Usage
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.caching.answers import AnswerCache, CachedAnswer
from hybrid_llm.router.caching.disk import DiskCache
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import A_DAY, FakeBackend

ENTRIES = 2000
PROMPT = "Summarise what the customer wants, in one sentence. " * 8
ANSWER = CachedAnswer(
    text="The customer wants a refund for an order that arrived late. " * 8,
    finish_reason=FinishReason.STOP,
    usage=Usage(prompt_tokens=100, completion_tokens=96),
    backend="edge",
)
POLICY = builtin_policy("balanced", backends={"edge": Location.EDGE})


@dataclass(frozen=True, slots=True)
class Size:
    """Rounds, calls of each case in a round, and entries that are there."""

    rounds: int = 9
    calls: int = 200
    entries: int = ENTRIES


def cleared(number: int) -> Cleared:
    guard = PrivacyGuard()
    asked = Request(messages=(Message(role="user", content=f"{PROMPT}{number}"),), deadline=A_DAY)
    return guard.clear(guard.assess(asked, POLICY), Location.EDGE, Purpose.CACHE)


class Plain:
    """A table of JSON texts under hashes: no encryption, no clearance, no limits."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("CREATE TABLE answers (name BLOB PRIMARY KEY, answer TEXT)")

    def get(self, prompt: str) -> str:
        name = hashlib.sha256(prompt.encode()).digest()
        (text,) = self._db.execute("SELECT answer FROM answers WHERE name = ?", (name,)).fetchone()
        return str(json.loads(text)["text"])

    def put(self, prompt: str, text: str) -> None:
        name = hashlib.sha256(prompt.encode()).digest()
        self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (name, json.dumps({"text": text})))


def client(cache: AnswerCache) -> HybridLLM:
    llm = HybridLLM([FakeBackend("edge", Location.EDGE)], POLICY, sensors=FixedSensors(), cache=cache)
    llm.generate(PROMPT, temperature=0)
    assert llm.generate(PROMPT, temperature=0).cached
    return llm


def cases(folder: Path, entries: int) -> dict[str, Callable[[], object]]:
    """Label -> one call, over caches that hold *entries* answers."""
    asked = [cleared(number) for number in range(entries)]
    plain, memory, disk = Plain(folder / "plain.db"), MemoryCache(max_entries=2 * entries), DiskCache(folder / "a.db")
    for number, one in enumerate(asked):
        plain.put(f"{PROMPT}{number}", ANSWER.text)
        memory.put(one, ANSWER)
        disk.put(one, ANSWER)
    turn = count()

    def another() -> int:
        return next(turn) * 7 % entries

    in_memory, on_disk = client(MemoryCache()), client(DiskCache(folder / "b.db"))
    return {
        "hit: a plain row of SQLite (the floor)": lambda: plain.get(f"{PROMPT}{another()}"),
        "hit: in memory": lambda: memory.get(asked[another()]),
        "hit: on disk, encrypted": lambda: disk.get(asked[another()]),
        "store: a plain row of SQLite (the floor)": lambda: plain.put(f"{PROMPT}{another()}", ANSWER.text),
        "store: in memory": lambda: memory.put(asked[another()], ANSWER),
        "store: on disk, encrypted": lambda: disk.put(asked[another()], ANSWER),
        "generate that hits in memory": lambda: in_memory.generate(PROMPT, temperature=0),
        "generate that hits on disk": lambda: on_disk.generate(PROMPT, temperature=0),
    }


def measured(work: dict[str, Callable[[], object]], size: Size) -> dict[str, float]:
    """Label -> the median of the rounds, in which all cases take turns: microseconds of CPU for each call."""
    rounds: dict[str, list[float]] = {label: [] for label in work}
    for _ in range(size.rounds):
        for label, call in work.items():
            began = time.process_time()
            for _ in range(size.calls):
                call()
            rounds[label].append((time.process_time() - began) / size.calls * 1e6)
    return {label: statistics.median(each) for label, each in rounds.items()}


def main() -> None:
    size = Size(rounds=1, calls=5, entries=20) if parsed(parser(__doc__)).smoke else Size()
    with tempfile.TemporaryDirectory() as name:
        for label, us in measured(cases(Path(name), size.entries), size).items():
            print(f"{label:42}{us:8.1f} us")


if __name__ == "__main__":
    main()
