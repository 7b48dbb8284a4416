"""What holding a budget costs a request: CPU of reading a balance and of one booking, beside bare SQLite.

python -m benchmarks spend
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._run import parsed, parser
from hybrid_llm.core.request import Location, Request
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.policies.language.schema import Objectives
from hybrid_llm.router.spending.charge import Spending
from hybrid_llm.router.spending.ledger import Ledger, MemoryLedger
from hybrid_llm.router.spending.stored import DatabaseLedger


@dataclass(frozen=True, slots=True)
class Size:
    """How often each is measured, and the share of the usual calls in a round."""

    rounds: int = 9
    share: float = 1.0


def cpu_us(work: Callable[[], object], times: int, size: Size) -> float:
    """The best of some rounds, microseconds of CPU for each call."""
    times, rounds = max(1, int(times * size.share)), []
    for _ in range(size.rounds):
        began = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - began) / times * 1e6)
    return min(rounds)


def booked(ledger: Ledger) -> None:
    held = ledger.reserve("tenant", 5, None)
    assert held is not None
    ledger.settle(held, 3)


def bare(folder: Path) -> Callable[[], None]:
    """Two updates of one row, each a transaction in WAL mode: the floor of any booking in SQLite."""
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v INTEGER)")
    db.execute("INSERT INTO t VALUES ('tenant', 0)")

    def work() -> None:
        db.execute("UPDATE t SET v = v + 5 WHERE k = 'tenant'")
        db.execute("UPDATE t SET v = v - 2 WHERE k = 'tenant'")

    return work


def signals_us(prices: dict[str, float], size: Size) -> float:
    states = {name: BackendState(name=name, location=Location(name)) for name in ("edge", "cloud")}
    spending, signals, request = Spending(prices), Signals(backends=states), Request(messages=())
    objectives = Objectives(budget=5.0, currency="USD") if prices else Objectives()
    return cpu_us(lambda: spending.with_costs(signals, request, objectives), 3000, size)


def main() -> None:
    size = Size(rounds=1, share=0.005) if parsed(parser(__doc__)).smoke else Size()
    with tempfile.TemporaryDirectory() as name:
        memory, file = MemoryLedger(), DatabaseLedger(Path(name) / "spend.db")
        rows = (
            ("signals of a request, no backend has a price", signals_us({}, size)),
            ("signals of a request under a budget, in memory", signals_us({"cloud": 0.5}, size)),
            ("balance, in memory", cpu_us(lambda: memory.balance("tenant"), 2000, size)),
            ("balance, in a file", cpu_us(lambda: file.balance("tenant"), 500, size)),
            ("reserve and settle, in memory", cpu_us(lambda: booked(memory), 2000, size)),
            ("reserve and settle, in a file", cpu_us(lambda: booked(file), 300, size)),
            ("bare SQLite: two updates of one row (the floor)", cpu_us(bare(Path(name)), 300, size)),
        )
        file.close()
    for label, value in rows:
        print(f"{label:50}{value:8.1f} us")


if __name__ == "__main__":
    main()
