"""Token buckets: never exceeded by concurrent requests, settled by what was used, and remembered across a restart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError, QuotaExceeded
from hybrid_llm.core.rights.counters import (
    Counters,
    CountersBusy,
    CountersError,
    DatabaseCounters,
    MemoryCounters,
    open_counters,
)
from hybrid_llm.core.rights.gate import Gate, Share
from hybrid_llm.core.rights.grants import FixedRights, Limits, Rights
from hybrid_llm.core.rights.quotas import Quotas
from hybrid_llm.router.spending.ledger import Balance, BookingLedger, Entry, day_of
from tests.postgres import forget

MINUTE = Limits(tokens_per_minute=100)


class Clock:
    def __init__(self, now: float = 1.7e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "file", "postgres"])
def store(request, tmp_path):
    where = {"memory": None, "file": tmp_path / "quotas.db"}.get(request.param)
    if request.param == "postgres":
        where = request.getfixturevalue("postgres_server").url
        forget(where, "counters")
    opened = open_counters(where)
    yield opened
    opened.close()


def reserve(quotas, tokens, limits=MINUTE, account="a"):
    return quotas.reserve(account, limits, tokens, expires_s=600.0)


def test_a_bucket_lends_its_limit_and_regains_it_within_its_period(store):
    clock = Clock()
    quotas = Quotas(store, clock=clock)
    quotas.settle(reserve(quotas, 100), 100)
    with pytest.raises(QuotaExceeded) as caught:
        reserve(quotas, 10)
    assert caught.value.retry_after == pytest.approx(6.0, abs=0.01)
    clock.now += caught.value.retry_after
    assert reserve(quotas, 10)
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 1)


def test_what_was_reserved_and_not_used_is_free_again_at_once(store):
    quotas = Quotas(store, clock=Clock())
    charge = reserve(quotas, 90)
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 20)
    quotas.settle(charge, 5)
    assert reserve(quotas, 95)


def test_a_reservation_is_not_regained_while_its_request_runs(store):
    clock = Clock()
    quotas = Quotas(store, clock=clock)
    charge = reserve(quotas, 100)
    clock.now += 300
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 1)
    quotas.settle(charge, 40)
    assert reserve(quotas, 60)
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 1)


def test_the_day_has_a_bucket_of_its_own_and_accounts_are_apart(store):
    clock = Clock()
    quotas = Quotas(store, clock=clock)
    both = Limits(tokens_per_minute=100, tokens_per_day=150)
    quotas.settle(reserve(quotas, 100, both), 100)
    quotas.flush()
    clock.now += 60
    with pytest.raises(QuotaExceeded, match="day"):
        reserve(quotas, 100, both)
    assert reserve(quotas, 100, both, account="b")


def test_a_request_larger_than_the_limit_says_what_to_do_and_not_when_to_retry(store):
    with pytest.raises(QuotaExceeded, match="lower max_tokens") as caught:
        reserve(Quotas(store), 101)
    assert caught.value.retry_after is None


def test_without_a_limit_nothing_is_stored(store):
    quotas = Quotas(store)
    assert reserve(quotas, 10**9, Limits(calls=3)) is None
    quotas.settle(None, 5)
    with store.transaction(writes=False) as counters:
        assert counters.accounts() == []


def test_what_a_process_that_died_had_reserved_counts_as_used_once_it_expires(store):
    clock = Clock()
    reserve(Quotas(store, clock=clock), 100)
    quotas = Quotas(store, clock=clock)
    clock.now += 599
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 1)
    clock.now += 2
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 50)
    clock.now += 30
    assert reserve(quotas, 50)


def test_a_restart_forgets_nothing(tmp_path):
    clock = Clock()
    first = Quotas(DatabaseCounters(tmp_path / "q.db"), clock=clock)
    first.settle(reserve(first, 80), 70)
    first.close()
    second = Quotas(DatabaseCounters(tmp_path / "q.db"), clock=clock)
    with pytest.raises(QuotaExceeded):
        reserve(second, 31)
    assert reserve(second, 30)
    second.close()


def test_a_raised_limit_counts_at_once_and_a_lowered_one_too(store):
    quotas = Quotas(store, clock=Clock())
    quotas.settle(reserve(quotas, 100), 100)
    assert reserve(quotas, 100, Limits(tokens_per_minute=200))
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 1, Limits(tokens_per_minute=150))


@pytest.mark.parametrize("back", [1.0, 10**7])
def test_a_clock_that_goes_back_regains_nothing_and_locks_nobody_out(store, back):
    clock = Clock()
    quotas = Quotas(store, clock=clock)
    quotas.settle(reserve(quotas, 100), 100)
    clock.now -= back
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 50)
    clock.now += 61 + (back if back < 60 else 0)
    assert reserve(quotas, 100)


steps = st.lists(
    st.tuples(st.integers(1, 60), st.floats(0, 1), st.floats(0, 40), st.integers(0, 3)), min_size=1, max_size=40
)


@given(steps)
@settings(max_examples=60)
def test_no_account_uses_more_than_its_limit_and_what_it_regains_in_any_time(script):
    """Whatever is reserved, used and delayed. Each use counts from when its reservation was made until it ended."""
    clock, running, used = Clock(), [], []
    quotas = Quotas(MemoryCounters(), clock=clock)
    for tokens, part, pause, ended in script:
        with contextlib.suppress(QuotaExceeded):
            running.append((reserve(quotas, tokens), int(tokens * part)))
        for _ in range(min(ended, len(running))):
            charge, took = running.pop(0)
            quotas.settle(charge, took)
            used.append((clock.now, took))
        clock.now += pause
    for begin, _ in used:
        for end, _ in used:
            taken = sum(took for at, took in used if begin <= at <= end)
            assert taken <= 100 + 100 * max(end - begin, 0) / 60 + 1e-6


@given(st.lists(st.integers(1, 60), min_size=2, max_size=12))
@settings(max_examples=10, deadline=None)
def test_requests_at_once_never_get_more_than_the_limit_together(tmp_path_factory, sizes):
    """In threads, through two connections to one file, as two processes have them."""
    path = tmp_path_factory.mktemp("quotas") / "q.db"
    clock, granted, barrier = Clock(), [], threading.Barrier(len(sizes))
    both = [Quotas(DatabaseCounters(path), clock=clock) for _ in range(2)]

    def ask(quotas, tokens):
        barrier.wait()
        while True:
            try:
                granted.append(reserve(quotas, tokens).tokens)
            except CountersBusy:
                continue
            except QuotaExceeded:
                pass
            return

    threads = [threading.Thread(target=ask, args=(both[at % 2], size)) for at, size in enumerate(sizes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) <= 100
    assert granted or min(sizes) > 100
    for quotas in both:
        quotas.close()


def test_a_settlement_that_cannot_be_written_is_written_with_the_next_call(tmp_path):
    path, clock = tmp_path / "q.db", Clock()
    quotas = Quotas(DatabaseCounters(path), clock=clock)
    charge = reserve(quotas, 100)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        quotas.settle(charge, 10)
        with pytest.raises(CountersBusy):
            reserve(quotas, 10)
        other.execute("ROLLBACK")
    assert reserve(quotas, 90)
    quotas.close()


def test_a_full_disk_is_an_error_and_loses_nothing_of_before(tmp_path):
    store = DatabaseCounters(tmp_path / "q.db")
    quotas = Quotas(store, clock=Clock())
    quotas.settle(reserve(quotas, 60), 60)
    store._database._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(CountersError):
        any(reserve(quotas, 1, account=f"account {number} {'x' * 200}") is None for number in range(10_000))
    store._database._db.execute("PRAGMA max_page_count = 1000000")
    with pytest.raises(QuotaExceeded):
        reserve(quotas, 41)
    quotas.close()


@pytest.mark.parametrize("content", [b"not a database, and longer than a page header of it" * 9, "ledger"])
def test_another_programs_file_is_refused(tmp_path, content):
    path = tmp_path / "other.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE spend (day)")
            other.commit()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"other\.db"):
        DatabaseCounters(path)
    assert path.read_bytes() == before


def test_a_folder_that_is_missing_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot be opened"):
        DatabaseCounters(tmp_path / "missing" / "q.db")


def test_accounts_that_are_long_untouched_are_forgotten_and_others_stay(store):
    clock = Clock()
    quotas = Quotas(store, clock=clock)
    quotas.settle(reserve(quotas, 10, account="old"), 10)
    clock.now += 3 * 86_400
    quotas.settle(reserve(quotas, 10, account="new"), 10)
    quotas.flush()
    quotas.prune()
    with store.transaction(writes=False) as counters:
        assert counters.accounts() == ["new"]
    assert [each.used for each in quotas.usage("new", MINUTE)] == [10.0]


def _write_and_raise(counters):
    counters.write("a", "line", (1, 2, 3))
    raise KeyError("a")


def test_a_transaction_that_raises_changes_nothing(store):
    with pytest.raises(KeyError), store.transaction(writes=True) as counters:
        _write_and_raise(counters)
    with store.transaction(writes=True) as counters:
        assert counters.lines("a") == {}
        counters.write("a", "line", (1, 2, 3))
        counters.write("a", "other", (4, 5, 6))
        counters.write("a", "other", None)
        assert counters.lines("a") == {"line": (1, 2, 3)}


class CounterLedger(BookingLedger):
    """A ledger of spending over the same interface: what a database server stores for both."""

    def __init__(self, store, currency="USD") -> None:
        super().__init__(currency, Clock())
        self._store = store
        self._counters: Counters | None = None

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[None]:
        with self._lock, self._store.transaction(writes=writes) as self._counters:
            yield

    def _read(self, tenant: str) -> Balance:
        days = [day for account in self._counters.accounts() for day in self._counters.lines(account)]
        day = max([day_of(self._clock()), *days])
        spent, reserved, _ = self._counters.lines(f"{self._currency} {tenant}").get(day, (0, 0, 0))
        return Balance(day=day, spent=spent, reserved=reserved)

    def _add(self, day, tenant, spent, reserved, requests):
        account = f"{self._currency} {tenant}"
        old = self._counters.lines(account).get(day, (0, 0, 0))
        self._counters.write(account, day, (old[0] + spent, old[1] + reserved, old[2] + requests))

    def entries(self) -> list[Entry]:
        raise NotImplementedError

    def close(self) -> None:
        self._store.close()


def test_a_ledger_of_spending_fits_the_same_store(store):
    ledger = CounterLedger(store)
    charge = ledger.reserve("acme", 70, 100)
    assert ledger.reserve("acme", 40, 100) is None
    ledger.settle(charge, 20)
    assert ledger.balance("acme").total == 20
    assert ledger.reserve("acme", 80, 100) is not None
    assert ledger.balance("other").total == 0


def test_a_dead_process_leaves_no_lock(tmp_path):
    path = tmp_path / "q.db"
    DatabaseCounters(path).close()
    child = os.fork()
    if child == 0:
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("BEGIN IMMEDIATE")
        os._exit(0)
    os.waitpid(child, 0)
    quotas = Quotas(DatabaseCounters(path))
    assert reserve(quotas, 10)
    quotas.close()


def test_two_nodes_share_the_quotas_in_one_database(postgres_server):
    """Two gates as two nodes have them, with requests at once: together they never lend more than the limit."""
    forget(postgres_server.url, "counters")
    limits = Limits(tokens_per_day=1000)
    granted: list[int] = []

    async def ask(gate: Gate) -> None:
        share = Share(account="acme", limits=limits)
        with contextlib.suppress(QuotaExceeded):
            async with gate.hold(share, 100, deadline=30.0):
                granted.append(100)
                share.tokens = 100

    async def node() -> None:
        gate = Gate(FixedRights(Rights(grants=())), Quotas(open_counters(postgres_server.url)), backend="node")
        await asyncio.gather(*(ask(gate) for _ in range(10)))
        await asyncio.to_thread(gate.close)

    def run() -> None:
        asyncio.run(node())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 1000
    with contextlib.closing(open_counters(postgres_server.url)) as store:
        (used,) = [each.used for each in Quotas(store).usage("acme", limits)]
    assert 990 < used <= 1000
