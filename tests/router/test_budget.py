"""The budget as an app meets it: which backends are excluded, what each stream costs, and what fails closed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    ConfigError,
    NoEligibleBackend,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.request import Location
from hybrid_llm.core.savings import UNIT
from hybrid_llm.router.spending.ledger import LedgerBusy, LedgerError, MemoryLedger, Price
from hybrid_llm.router.spending.stored import DatabaseLedger
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: capped
tags: {public: {allow: [edge, cloud]}}
objectives: {budget: 1 USD/day}
rules:
  - prefer: [cloud, edge]
resilience: {retries: 0}
"""
PRICE = {"cloud": Price(input_per_1k=1.0, output_per_1k=10.0, currency="USD")}


class Failing(MemoryLedger):
    """A ledger whose disk is full, or that is always busy."""

    def __init__(self, error) -> None:
        super().__init__()
        self.error = error

    def reserve(self, tenant, amount, budget):
        raise self.error


class Unreadable(Failing):
    def balance(self, tenant):
        raise self.error


@pytest.fixture
def ledger():
    return MemoryLedger("USD")


def spent(ledger, tenant="") -> tuple[float, float]:
    balance = ledger.balance(tenant)
    return balance.spent / UNIT, balance.reserved / UNIT


def test_an_answer_is_paid_as_the_backend_counted_it(make_client, edge, cloud, ledger):
    client = make_client(edge, cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    reply = client.generate("hello", max_tokens=20)
    assert reply.backend == "cloud"
    assert spent(ledger) == (pytest.approx(0.003 + 0.03), 0.0)
    assert reply.cost == pytest.approx(0.033)
    assert client.signals().budget.spent == pytest.approx(0.033)
    assert client.signals().budget.left == pytest.approx(0.967)


def test_a_backend_beyond_the_budget_is_excluded_with_a_reason_for_people(make_client, edge, cloud, ledger):
    client = make_client(edge, cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    ledger.settle(ledger.reserve("", UNIT, None), UNIT * 95 // 100)
    decision = client.decide("hello", max_tokens=20)
    assert decision.order == ("edge",)
    assert "the budget of 1 USD a day does not allow it: 0.95 USD have been spent today" in decision.excluded["cloud"]
    assert client.generate("hello", max_tokens=20).backend == "edge"
    assert client.decide("hi", max_tokens=1).order == ("cloud", "edge"), "a shorter answer fits"
    assert client.decide("hello", max_tokens=20, tenant="other").order == ("cloud", "edge")


def test_if_only_priced_backends_are_left_the_error_names_the_budget(make_client, cloud, ledger):
    client = make_client(cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    with pytest.raises(NoEligibleBackend, match="budget of 1 USD a day"):
        client.generate("hello", max_tokens=500)


def test_rules_read_what_is_left(make_client, edge, cloud, ledger):
    policy = POLICY.replace("rules:\n", "rules:\n  - exclude: cloud\n    when: has(budget.left) && budget.left < 0.5\n")
    client = make_client(edge, cloud, policy=policy, prices=PRICE, ledger=ledger)
    assert client.decide("hello", max_tokens=5).order == ("cloud", "edge")
    ledger.settle(ledger.reserve("", UNIT, None), UNIT * 6 // 10)
    assert "budget.left" in client.decide("hello", max_tokens=5).excluded["cloud"]


def test_the_price_that_rules_see_is_that_of_this_request(make_client, edge, cloud):
    policy = POLICY.replace("budget: 1 USD/day", "cost: 0.1 USD").replace(
        "rules:\n",
        "rules:\n  - exclude: cloud\n    when: >-\n      double(request.prompt_tokens + request.max_tokens)"
        " / 1000.0 * cloud.cost_per_1k_tokens > objectives.cost\n",
    )
    client = make_client(edge, cloud, policy=policy, prices=PRICE)
    assert client.decide("hello", max_tokens=9).order == ("cloud", "edge")
    assert client.decide("hello", max_tokens=11).order == ("edge",)


def test_a_stream_that_is_left_early_costs_the_prompt_and_what_was_received(make_client, cloud, ledger):
    client = make_client(cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    with client.stream("hello", max_tokens=20) as stream:
        next(stream)
        next(stream)
        held = spent(ledger)[1]
    assert held >= 0.2
    prompt = 0.001 * cloud.count_tokens(cloud.requests[0])
    assert spent(ledger) == (pytest.approx(prompt + 0.02), 0.0)


def test_a_stream_that_breaks_costs_what_was_received(make_client, ledger):
    cut = [StreamInterrupted("cut", backend="cloud", received_tokens=1)]
    cloud = FakeBackend("cloud", Location.CLOUD, ["half", *cut])
    client = make_client(cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    with pytest.raises(StreamInterrupted):
        client.generate("hello", max_tokens=20)
    assert spent(ledger)[0] > 0.01
    assert spent(ledger)[1] == 0.0


def test_a_backend_that_is_not_there_costs_nothing(make_client, edge, ledger):
    cloud = FakeBackend("cloud", Location.CLOUD, [BackendUnavailable("down", backend="cloud")])
    client = make_client(edge, cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    assert client.generate("hello", max_tokens=20).backend == "edge"
    assert spent(ledger) == (0.0, 0.0)
    assert ledger.entries()[0].requests == 0


def test_a_fallback_to_a_priced_backend_reserves_before_the_call(make_client, ledger):
    down = FakeBackend("edge", Location.EDGE, [BackendUnavailable("down", backend="edge")])

    class Watching(FakeBackend):
        def stream(self, cleared):
            seen.append(spent(ledger))
            yield from super().stream(cleared)

    seen = []
    cloud = Watching("cloud", Location.CLOUD, ["ok"])
    policy = POLICY.replace("[cloud, edge]", "[edge, cloud]", 1).replace("allow: [cloud, edge]", "allow: [edge, cloud]")
    policy = policy.replace("  - prefer: [cloud, edge]", "  - prefer: [edge, cloud]")
    client = make_client(down, cloud, policy=policy, prices=PRICE, ledger=ledger)
    assert client.generate("hello", max_tokens=20).backend == "cloud"
    assert seen[0][1] >= 0.2


def test_a_budget_that_is_used_up_between_decision_and_call_falls_to_the_next(make_client, edge, cloud, ledger):
    client = make_client(edge, cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    stream = client.stream("hello", max_tokens=20)
    assert stream.decision.order == ("cloud", "edge")
    ledger.reserve("", UNIT, None)
    for _ in stream:
        pass
    assert stream.generation.backend == "edge"
    assert cloud.requests == []


@pytest.mark.parametrize("error", [LedgerError("disk is full"), LedgerBusy("another process is writing to it")])
def test_a_ledger_that_cannot_be_written_keeps_priced_backends_out_and_free_ones_in(make_client, edge, cloud, error):
    client = make_client(edge, cloud, policy=POLICY, prices=PRICE, ledger=Failing(error))
    assert client.generate("hello", max_tokens=20).backend == "edge"
    assert cloud.requests == []


def test_if_only_priced_backends_are_left_the_error_says_that_nothing_can_be_booked(make_client, cloud):
    client = make_client(cloud, policy=POLICY, prices=PRICE, ledger=Failing(LedgerError("disk is full")))
    with pytest.raises(AllBackendsFailed, match="cannot be booked: disk is full"):
        client.generate("hello", max_tokens=20)


def test_a_ledger_that_cannot_be_read_leaves_priced_backends_out_and_says_why(make_client, edge, cloud):
    client = make_client(edge, cloud, policy=POLICY, prices=PRICE, ledger=Unreadable(LedgerError("disk image broken")))
    decision = client.decide("hello", max_tokens=20)
    assert decision.order == ("edge",)
    assert decision.excluded["cloud"] == "its price cannot be booked: disk image broken"
    assert client.signals().budget.left == 0.0


def test_a_file_that_is_locked_for_a_moment_is_waited_for(make_client, cloud, tmp_path):
    ledger = DatabaseLedger(tmp_path / "s.db", "USD")
    client = make_client(cloud, policy=POLICY, prices=PRICE, ledger=ledger)
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)
    stream = client.stream("hello", max_tokens=20)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.1, lambda: other.execute("COMMIT")).start()
    assert "".join(chunk.text for chunk in stream) == "in the cloud"
    assert ledger.balance("").spent > 0
    other.close()


def test_prices_and_policy_must_count_in_one_currency(make_client, edge, cloud):
    euros = {"cloud": Price(input_per_1k=1.0, output_per_1k=1.0, currency="EUR")}
    with pytest.raises(ConfigError, match="prices are in EUR, the policy counts in USD"):
        make_client(edge, cloud, policy=POLICY, prices=euros)
    with pytest.raises(ConfigError, match="several currencies"):
        make_client(edge, cloud, policy=POLICY, prices={**PRICE, "edge": euros["cloud"]})
    assert make_client(edge, cloud, policy=POLICY, prices={"cloud": 0.5}).decide("hello").order


def test_without_prices_nothing_is_booked_and_the_whole_budget_is_left(make_client, edge, cloud, ledger):
    client = make_client(edge, cloud, policy=POLICY, ledger=ledger)
    client.generate("hello")
    assert ledger.entries() == []
    assert client.signals().budget.left == 1.0


class Costly:
    """Answers *tokens* tokens, slowly enough that requests overlap."""

    def __init__(self, tokens: int) -> None:
        self._fake = FakeBackend("cloud", Location.CLOUD)
        self.name, self.location, self.capabilities = "cloud", Location.CLOUD, self._fake.capabilities
        self.state, self.count_tokens = self._fake.state, self._fake.count_tokens
        self.close, self.aclose = self._fake.close, self._fake.aclose
        self.tokens, self.served = tokens, 0

    async def astream(self, cleared):
        self.served += 1
        for _ in range(self.tokens):
            await asyncio.sleep(0.001)
            yield Chunk(text="x")
        usage = Usage(prompt_tokens=3, completion_tokens=self.tokens)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=usage)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_many_tasks_at_once_do_not_pass_the_budget(make_client, tmp_path, kind):
    ledger = MemoryLedger("USD") if kind == "memory" else DatabaseLedger(tmp_path / "s.db", "USD")
    backend = Costly(5)
    client = make_client(backend, policy=POLICY, prices=PRICE, ledger=ledger)

    async def ask(*, cancel: bool) -> None:
        task = asyncio.create_task(client.agenerate("hello", max_tokens=6))
        if cancel:
            await asyncio.sleep(0.003)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def run() -> None:
        await asyncio.gather(*[ask(cancel=number % 7 == 0) for number in range(60)])

    asyncio.run(run())
    total, reserved = spent(ledger)
    assert total <= 1.0
    assert reserved == 0.0
    assert 0 < backend.served < 60


class Silent(FakeBackend):
    async def astream(self, cleared):
        self.requests.append(cleared.request)
        await asyncio.sleep(30)
        yield Chunk(text="too late")


def test_a_hedge_to_a_priced_backend_reserves_and_a_priced_loser_pays_for_its_prompt(make_client, edge, ledger):
    policy = POLICY.replace("retries: 0", "retries: 0, hedge_after: 20ms")
    slow = Silent("cloud", Location.CLOUD)
    client = make_client(edge, slow, policy=policy, prices=PRICE, ledger=ledger)
    reply = asyncio.run(client.agenerate("hello", max_tokens=20))
    assert (reply.backend, len(slow.requests)) == ("edge", 1)
    prompt = 0.001 * slow.count_tokens(slow.requests[0])
    assert spent(ledger) == (pytest.approx(prompt), 0.0)

    other = MemoryLedger("USD")
    quick = FakeBackend("cloud", Location.CLOUD, ["in ", "the ", "cloud"])
    policy = policy.replace("prefer: [cloud, edge]", "prefer: [edge, cloud]")
    client = make_client(Silent("edge", Location.EDGE), quick, policy=policy, prices=PRICE, ledger=other)
    assert asyncio.run(client.agenerate("hello", max_tokens=20)).backend == "cloud"
    assert spent(other) == (pytest.approx(0.033), 0.0)


def test_a_hedge_that_the_budget_does_not_allow_is_not_made(make_client, ledger):
    policy = POLICY.replace("retries: 0", "retries: 0, hedge_after: 20ms").replace(
        "prefer: [cloud, edge]", "prefer: [edge, cloud]"
    )

    class Slow(FakeBackend):
        async def astream(self, cleared):
            ledger.reserve("", UNIT, None)
            await asyncio.sleep(0.1)
            async for chunk in super().astream(cleared):
                yield chunk

    cloud = FakeBackend("cloud", Location.CLOUD)
    client = make_client(Slow("edge", Location.EDGE), cloud, policy=policy, prices=PRICE, ledger=ledger)
    assert asyncio.run(client.agenerate("hello", max_tokens=20)).backend == "edge"
    assert cloud.requests == []
