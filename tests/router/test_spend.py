"""The ledgers: exact sums, and one budget per tenant and day that concurrent requests never exceed."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sqlite3
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm import HybridLLM
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.signals import FixedSensors
from hybrid_llm.router.spending.ledger import UNIT, Balance, LedgerBusy, LedgerError, MemoryLedger, Price, day_of
from hybrid_llm.router.spending.stored import DatabaseLedger
from tests.fakes import FakeBackend
from tests.postgres import forget

NOON = 1_795_608_000.0  # 2026-11-25 12:00 UTC
DAY = 86_400.0


class Clock:
    def __init__(self, now=NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "file", "postgres"])
def make_ledger(request, tmp_path):
    made = []
    where = tmp_path / "s.db"
    if request.param == "postgres":
        where = request.getfixturevalue("postgres_server").url
        forget(where, "spend")

    def make(clock=None):
        clock = clock or Clock()
        made.append(MemoryLedger("USD", clock) if request.param == "memory" else DatabaseLedger(where, "USD", clock))
        return made[-1]

    yield make
    for ledger in made:
        ledger.close()


def test_a_reservation_counts_until_it_is_settled_for_what_it_cost(make_ledger):
    ledger = make_ledger()
    held = ledger.reserve("a", 300, budget=1000)
    assert ledger.balance("a") == Balance(day="2026-11-25", spent=0, reserved=300)
    ledger.settle(held, 120)
    assert ledger.balance("a") == Balance(day="2026-11-25", spent=120, reserved=0)
    (entry,) = ledger.entries()
    assert (entry.tenant, entry.currency, entry.spent, entry.requests) == ("a", "USD", 120, 1)


def test_a_reservation_beyond_the_budget_is_refused_and_leaves_no_trace(make_ledger):
    ledger = make_ledger()
    assert ledger.reserve("a", 600, budget=1000) is not None
    assert ledger.reserve("a", 401, budget=1000) is None
    assert ledger.reserve("a", 400, budget=1000) is not None
    assert ledger.balance("a").total == 1000


def test_a_released_reservation_costs_nothing_and_is_no_request(make_ledger):
    ledger = make_ledger()
    ledger.release(ledger.reserve("a", 600, budget=1000))
    assert ledger.balance("a").total == 0
    assert sum(entry.requests for entry in ledger.entries()) == 0


def test_tenants_do_not_share_a_budget(make_ledger):
    ledger = make_ledger()
    ledger.reserve("a", 1000, budget=1000)
    assert ledger.reserve("b", 1000, budget=1000) is not None


def test_a_day_begins_at_midnight_utc_and_what_began_before_is_booked_before(make_ledger):
    clock = Clock(NOON + 12 * 3600 - 1)
    ledger = make_ledger(clock)
    held = ledger.reserve("a", 1000, budget=1000)
    assert ledger.reserve("a", 1, budget=1000) is None
    clock.now += 2
    assert ledger.balance("a") == Balance(day="2026-11-26")
    assert ledger.reserve("a", 1000, budget=1000) is not None
    ledger.settle(held, 900)
    assert [(entry.day, entry.spent) for entry in ledger.entries()] == [("2026-11-26", 0), ("2026-11-25", 900)]


def test_a_clock_that_jumps_back_gives_no_fresh_budget(make_ledger):
    clock = Clock()
    ledger = make_ledger(clock)
    ledger.settle(ledger.reserve("a", 1000, budget=1000), 1000)
    for jump in (DAY, 30 * DAY, NOON):
        clock.now = NOON - jump
        assert ledger.reserve("a", 1, budget=1000) is None


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(1, 500), st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=40),
)
def test_spent_never_passes_the_budget_whatever_is_reserved_settled_and_released(budget, requests):
    ledger, open_ = MemoryLedger("USD", Clock()), []
    for amount, share, finish_one in requests:
        held = ledger.reserve("a", amount, budget)
        if held is not None:
            open_.append((held, int(amount * share)))
        assert ledger.balance("a").total <= budget
        if finish_one and open_:
            ledger.settle(*open_.pop())
    for held, cost in open_:
        ledger.settle(held, cost)
    balance = ledger.balance("a")
    assert balance.reserved == 0
    assert balance.spent <= budget


def _work(ledger, seed: int, budget: int, rounds: int) -> int:
    """Reserve and settle as a busy client does; returns what was really spent."""
    draw, spent = random.Random(seed), 0
    for _ in range(rounds):
        amount = draw.randint(1, 50)
        held = _patient(lambda amount=amount: ledger.reserve("a", amount, budget))
        if held is not None:
            cost = draw.randint(0, amount)
            _patient(lambda held=held, cost=cost: ledger.settle(held, cost))
            spent += cost
    return spent


def _patient(work):
    while True:
        try:
            return work()
        except LedgerBusy:
            continue


def test_threads_together_never_pass_the_budget_and_lose_no_booking(make_ledger):
    ledger, budget, spent = make_ledger(), 2000, []
    threads = [
        threading.Thread(target=lambda seed=seed: spent.append(_work(ledger, seed, budget, 60))) for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    balance = ledger.balance("a")
    assert (balance.spent, balance.reserved) == (sum(spent), 0)
    assert budget - 50 <= balance.spent <= budget, "the budget is used up to one request, and never passed"


def _process(path: str, seed: int, budget: int, told) -> None:
    ledger = DatabaseLedger(Path(path), "USD", Clock())
    told.put(_work(ledger, seed, budget, 60))
    ledger.close()


def test_processes_together_never_pass_the_budget_and_lose_no_booking(tmp_path):
    context, budget = multiprocessing.get_context("spawn"), 1500
    told = context.Queue()
    workers = [context.Process(target=_process, args=(str(tmp_path / "s.db"), seed, budget, told)) for seed in range(3)]
    for worker in workers:
        worker.start()
    spent = sum(told.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join(30)
    ledger = DatabaseLedger(tmp_path / "s.db", "USD", Clock())
    balance = ledger.balance("a")
    ledger.close()
    assert (balance.spent, balance.reserved) == (spent, 0)
    assert budget - 50 <= balance.spent <= budget


def test_a_file_is_remembered_and_what_a_dead_process_reserved_stays_reserved(tmp_path):
    first = DatabaseLedger(tmp_path / "s.db", "USD", Clock())
    first.settle(first.reserve("a", 100, None), 70)
    first.reserve("a", 200, None)
    first.close()
    second = DatabaseLedger(tmp_path / "s.db", "USD", Clock())
    assert second.balance("a") == Balance(day="2026-11-25", spent=70, reserved=200)
    second.close()


def test_another_currency_is_another_budget(tmp_path):
    dollars, yuan = DatabaseLedger(tmp_path / "s.db", "USD", Clock()), DatabaseLedger(tmp_path / "s.db", "CNY", Clock())
    dollars.reserve("a", 100, 100)
    assert yuan.reserve("a", 100, 100) is not None
    dollars.close()
    yuan.close()


def test_a_ledger_that_another_process_holds_is_busy_at_once_and_works_again_after(tmp_path):
    ledger = DatabaseLedger(tmp_path / "s.db", "USD", Clock())
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerBusy, match="another process"):
        ledger.reserve("a", 1, None)
    other.execute("COMMIT")
    other.close()
    assert ledger.reserve("a", 1, None) is not None
    ledger.close()


def test_a_full_disk_is_reported_and_nothing_is_booked(tmp_path):
    ledger = DatabaseLedger(tmp_path / "s.db", "USD", Clock())
    ledger._database._db.execute("PRAGMA max_page_count = 2")  # SQLite's own simulation of a full disk
    number = 0
    with pytest.raises(LedgerError, match="full"):  # noqa: PT012  # which booking is the first too many is SQLite's business
        while number := number + 1:
            ledger.reserve(f"tenant-{number}" * 20, 1, None)
    before = len(ledger.entries())
    with pytest.raises(LedgerError):
        ledger.reserve("a" * 3000, 1, None)
    assert len(ledger.entries()) == before
    ledger.close()


def test_a_file_that_is_something_else_is_refused_and_not_touched(tmp_path):
    text = tmp_path / "notes.db"
    text.write_text("these are my notes " * 100)
    with pytest.raises(ConfigError, match=r"notes\.db"):
        DatabaseLedger(text)
    assert text.read_text().startswith("these are my notes")
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(ConfigError, match="not a spend ledger"):
        DatabaseLedger(foreign)
    with pytest.raises(ConfigError, match="cannot be opened"):
        DatabaseLedger(tmp_path / "no" / "such" / "folder.db")


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(0, 10**7), st.integers(0, 10**7))
def test_a_price_is_never_below_the_true_one_and_less_than_a_billionth_above(first, second, prompt, completion):
    price = Price(input_per_1k=first, output_per_1k=second)
    exact = prompt * round(first * UNIT) + completion * round(second * UNIT)
    assert 0 <= price.cost(prompt, completion) * 1000 - exact < 1000


def test_a_day_is_that_of_utc():
    assert day_of(0.0) == "1970-01-01"
    assert day_of(NOON + 12 * 3600 - 1) == "2026-11-25"
    assert day_of(NOON + 12 * 3600) == "2026-11-26"


class Distant(MemoryLedger):
    """A ledger on another machine: notes in which threads it is called."""

    is_remote = True

    def __init__(self) -> None:
        super().__init__("USD")
        self.threads = set()
        self.open = threading.Event()
        self.open.set()

    def balance(self, tenant):
        self.threads.add(threading.current_thread())
        return super().balance(tenant)

    def reserve(self, tenant, amount, budget):
        self.threads.add(threading.current_thread())
        self.open.wait(10)
        return super().reserve(tenant, amount, budget)

    def settle(self, reservation, amount):
        self.threads.add(threading.current_thread())
        super().settle(reservation, amount)


@contextmanager
def distant_client(ledger):
    prices = {"edge": Price(input_per_1k=0.5, output_per_1k=1.5, currency="USD")}
    backends = [FakeBackend("edge", Location.EDGE, "hello")]
    with HybridLLM(backends, builtin_policy("balanced"), sensors=FixedSensors(), prices=prices, ledger=ledger) as llm:
        yield llm


def test_a_ledger_on_another_machine_is_never_waited_for_in_an_event_loop():
    async def ask(llm):
        for _ in range(3):
            await llm.agenerate("hello")

    ledger = Distant()
    with distant_client(ledger) as llm:
        asyncio.run(ask(llm))
        assert ledger.balance("").total > 0
        ledger.threads.discard(threading.current_thread())
        assert ledger.threads
        asyncio.run(ask(llm))
        assert threading.current_thread() not in ledger.threads
        llm.generate("hello")
        assert threading.current_thread() in ledger.threads, "without a loop there is nothing to keep free"


def test_what_was_reserved_for_a_caller_that_has_left_is_released():
    async def ask(llm, ledger):
        task = asyncio.create_task(llm.agenerate("hello"))
        while not ledger.threads:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        ledger.open.set()
        while not ledger.entries() or MemoryLedger.balance(ledger, "").total:
            await asyncio.sleep(0.01)

    ledger = Distant()
    ledger.open.clear()
    with distant_client(ledger) as llm:
        asyncio.run(asyncio.wait_for(ask(llm, ledger), 20))
    assert ledger.balance("").total == 0


def test_machines_share_a_budget_by_the_database_that_their_files_name(postgres_server, tmp_path):
    forget(postgres_server.url, "spend")
    price = "{input_per_1k: 1, output_per_1k: 1}"
    text = f"version: 1\nbackends: {{edge: {{kind: onnx, price: {price}}}}}\nspend: {{file: '{postgres_server.url}'}}\n"
    config = parse_config(text, tmp_path / "hybrid.yaml")
    with ExitStack() as opened:
        first, second = (opened.enter_context(closing(config.open_ledger())) for _ in range(2))
        assert first.is_remote
        assert first.reserve("acme", 60, budget=100) is not None
        assert second.reserve("acme", 60, budget=100) is None
        assert second.balance("acme").reserved == 60
