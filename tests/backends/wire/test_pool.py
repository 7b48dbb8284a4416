"""Several nodes behind one backend: real nodes on loopback that are killed, filled, stopped and started again."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

import pytest
from prometheus_client import CollectorRegistry

from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendError,
    DeadlineExceeded,
    HybridLLMError,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.signals import FixedSensors

POLICY = (
    "version: 1\nname: pool\nresilience: {{retries: {retries}, retry_budget: 10%, {more}"
    "breaker: {{failures: 5, open: 30s}}}}\n"
)


def client(pool: GrpcPool, *, retries: int = 0, more: str = "", **options) -> HybridLLM:
    policy = parse_policy(POLICY.format(retries=retries, more=more), backends={"cloud": Location.CLOUD})
    return HybridLLM([pool], policy, sensors=FixedSensors(), **options)


@pytest.fixture
def nodes(pki, tools):
    started = [tools.Node(pki.node).__enter__() for _ in range(3)]
    yield started
    for node in started:
        if node.thread.is_alive():
            node.__exit__()


@pytest.fixture
def pool(nodes, pki):
    made = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in nodes])
    yield made
    made.close()


def seen(nodes) -> list[int]:
    return [len(node.engine.seen) for node in nodes]


def ask_until(llm: HybridLLM, pool: GrpcPool, health: str, *, deadline: float = 20.0) -> None:
    """Ask, and get an answer each time, until an endpoint is *health*."""
    end = time.monotonic() + 20.0
    while not any(member.health == health for member in pool.members()):
        assert llm.generate("hi", deadline=deadline).text == "hello from the node"
        assert time.monotonic() < end, [member.health for member in pool.members()]


class Endings(Counter):
    """A hook that counts how attempts ended, by the name of the error."""

    def __call__(self, event) -> None:
        self.update(attempt.error for attempt in event.attempts)


def assert_ten_answer_at_once(llm: HybridLLM, ended: Endings) -> None:
    """Ten more requests are one attempt each, and none of it fails."""
    ended.clear()
    for _ in range(10):
        llm.generate("hi", deadline=20.0)
    assert ended == {"": 10}


def test_it_is_a_backend_that_adds_its_nodes_up(pool, nodes):
    assert isinstance(pool, Backend)
    with client(pool) as llm:
        assert llm.generate("hi").text == "hello from the node"
        state = pool.state()
    assert (state.nodes, state.ready, state.context_window) == (3, True, 4096)
    assert sum(seen(nodes)) == 1


def test_requests_spread_and_a_session_stays(pool, nodes):
    for node in nodes:
        node.engine.delay = 0.02
    with client(pool, retries=2) as llm, ThreadPoolExecutor(9) as threads:
        list(threads.map(lambda _: llm.generate("hi", deadline=20.0), range(45)))
        assert min(seen(nodes)) >= 4, seen(nodes)
        before = seen(nodes)
        for _ in range(5):
            llm.generate("hi", session_id="s")
    assert sorted(now - then for now, then in zip(seen(nodes), before, strict=True)) == [0, 0, 5]


def test_a_node_that_is_gone_costs_no_request_and_gets_no_more_calls(pool, nodes):
    with client(pool) as llm:
        for node in nodes[:2]:
            node.__exit__()
        replies = [llm.generate("hi") for _ in range(12)]
        assert {reply.text for reply in replies} == {"hello from the node"}
        assert llm.signals().backends["cloud"].breaker == "closed", "the other endpoints answer: the backend works"
        assert pool.state().nodes == 1
        failures = sum(not record for record in seen(nodes)[:2])
        assert failures == 2


def test_when_all_nodes_are_gone_each_is_called_once_and_one_typed_error_names_them(pool, nodes):
    for node in nodes:
        node.__exit__()
    tried = []
    with client(pool, hooks=[lambda event: tried.extend(event.attempts)]) as llm, pytest.raises(AllBackendsFailed):
        llm.generate("hi", deadline=5.0)
    assert [(record.error, record.reason) for record in tried] == [("BackendUnavailable", "refused")] * 3


def test_a_full_node_sends_its_callers_to_the_others(pki, tools):
    engines = [tools.FakeEngine(delay=0.3, slots=1), tools.FakeEngine(slots=4), tools.FakeEngine(slots=4)]
    with ExitStack() as stack:
        nodes = [stack.enter_context(tools.Node(pki.node, engine, max_queue=0)) for engine in engines]
        pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in nodes])
        with client(pool, retries=2) as llm, ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda _: llm.generate("hi", max_tokens=6, deadline=20.0), range(24)))
    assert {reply.text for reply in replies} == {"hello "}
    assert len(engines[0].seen) < 6


def test_a_full_node_rests_for_the_time_that_it_names(pki, tools):
    full, free = tools.FakeEngine(delay=0.5, slots=1), tools.FakeEngine()
    ended = Endings()

    with tools.Node(pki.node, full, max_queue=0) as node, tools.Node(pki.node, free) as other:
        pool = GrpcPool([GrpcConfig(target=each.target, tls=pki.app) for each in (node, other)])
        holder = tools.backend(node.target, pki.app)
        with closing(holder.stream(tools.cleared())) as stream, client(pool, hooks=[ended]) as llm:
            next(stream)
            ask_until(llm, pool, "resting")
            assert_ten_answer_at_once(llm, ended)
        holder.close()


def test_a_node_whose_engine_died_rests_until_it_should_be_back(pki, tools):
    with tools.Node(pki.node) as node, tools.Node(pki.node) as other:
        node.engine.die = True  # it reports that it is back in half a second
        pool = GrpcPool([GrpcConfig(target=each.target, tls=pki.app) for each in (node, other)])
        with client(pool) as llm:
            ask_until(llm, pool, "resting")
            assert [member.health for member in pool.members()] == ["resting", "ready"]
            node.engine.die = False
            tools.eventually(lambda: pool.members()[0].health == "ready")


def test_a_node_that_reports_it_is_stopping_gets_no_new_calls(pki, tools):
    ended = Endings()

    with tools.Node(pki.node, tools.FakeEngine("abcd", delay=0.2)) as node, tools.Node(pki.node) as other:
        pool = GrpcPool([GrpcConfig(target=each.target, tls=pki.app) for each in (node, other)])
        with client(pool, hooks=[ended]) as llm, ThreadPoolExecutor(2) as threads:
            while not node.engine.active:
                held = threads.submit(llm.generate, "hi", deadline=30.0)
                time.sleep(0.1)
            stopping = threads.submit(node.do, node.server.stop(10.0))
            assert held.result().text == "abcd"
            assert pool.members()[0].health == "stopping"
            assert_ten_answer_at_once(llm, ended)
            stopping.result()


def test_a_request_calls_each_node_once_before_it_calls_one_again(pki, tools):
    engines = [tools.FakeEngine(die_after=1) for _ in range(3)]
    with ExitStack() as stack:
        nodes = [stack.enter_context(tools.Node(pki.node, engine)) for engine in engines]
        for _ in range(4):
            before = seen(nodes)
            pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in nodes])
            more = "continue_streams: true, "
            with client(pool, more=more) as llm, pytest.raises(StreamInterrupted):
                llm.generate("hi", deadline=20.0)
            assert [now - then for now, then in zip(seen(nodes), before, strict=True)] == [1] * 3
        pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in nodes])
        with client(pool, retries=1, more=more) as llm:
            before = seen(nodes)
            llm.generate("hi", deadline=20.0, max_tokens=5)
            assert sorted(now - then for now, then in zip(seen(nodes), before, strict=True)) == [1, 2, 2]


def test_another_node_continues_a_stream_that_breaks_off_for_async_callers_too(pki, tools):
    cut = tools.FakeEngine(delay=0.01)
    cut.die = False

    async def run(llm) -> str:
        async with llm.astream("hi", deadline=10.0) as stream:
            parts = []
            async for chunk in stream:
                parts.append(chunk.text)
                cut.die = True
            return "".join(parts) + f"|{len(stream.generation.continuations)}"

    with tools.Node(pki.node, cut) as first, tools.Node(pki.node, cut) as second:
        pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in (first, second)])
        with client(pool, more="continue_streams: true, ") as llm, pytest.raises(StreamInterrupted):
            asyncio.run(run(llm))
    assert len(cut.seen) == 2, "both nodes were called, and no other"


def test_a_rolling_restart_under_load_loses_no_request(pki, tools):
    nodes = [tools.Node(pki.node, tools.FakeEngine(delay=0.002)).__enter__() for _ in range(3)]
    pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in nodes])
    stop, answers, errors = threading.Event(), Counter(), []

    def ask(llm: HybridLLM) -> None:
        while not stop.is_set():
            try:
                answers[llm.generate("hi", deadline=10.0).text] += 1
            except Exception as error:  # noqa: BLE001  # the assertion below shows what was lost
                errors.append(repr(error))

    with client(pool, retries=1, more="continue_streams: true, ") as llm:
        threads = [threading.Thread(target=ask, args=(llm,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for index, node in enumerate(list(nodes)):
            node.do(node.server.stop(5.0))
            nodes[index] = tools.Node(pki.node, tools.FakeEngine(delay=0.002), listen=node.target).__enter__()
            tools.eventually(lambda i=index: len(nodes[i].engine.seen) > 3, 60.0)
        stop.set()
        for thread in threads:
            thread.join()
    for node in nodes:
        node.__exit__()
    assert errors == []
    assert set(answers) == {"hello from the node"}
    assert sum(answers.values()) > 30


def test_an_untrusted_node_costs_one_request_and_gets_no_calls_until_it_is_trusted(pki, tools, tmp_path):
    for name in ("ca.pem", "node.pem", "node.key"):
        shutil.copy(pki.folder / name, tmp_path)
    with tools.Node(TLSFiles.from_dir(tmp_path, "node")) as strange, tools.Node(pki.node) as good:
        stranger = pki.foreign_node
        for source, name in ((stranger.ca, "ca.pem"), (stranger.cert, "node.pem"), (stranger.key, "node.key")):
            shutil.copy(source, tmp_path / name)
        pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in (strange, good)])
        with client(pool) as llm:
            refused = 0
            for _ in range(20):
                try:
                    llm.generate("hi", deadline=10.0)
                except UntrustedPeer:
                    refused += 1
            assert refused <= 1
            assert len(good.engine.seen) == 20 - refused
            for name in ("ca.pem", "node.pem", "node.key"):
                shutil.copy(pki.folder / name, tmp_path)
            tools.eventually(lambda: llm.generate("hi", deadline=10.0) and strange.engine.seen, 20.0)


def test_another_node_continues_the_calls_of_a_silent_one_long_before_their_deadline(pki, tools):
    engines = tools.FakeEngine("a" * 40, delay=0.05), tools.FakeEngine("a" * 40)
    with tools.Node(pki.node, engines[0]) as node, tools.Node(pki.node, engines[1]) as other:
        proxy = tools.Proxy(node.port)
        pool = GrpcPool([GrpcConfig(target=target, tls=pki.app) for target in (proxy.target, other.target)])
        with client(pool, more="continue_streams: true, ") as llm:
            while not engines[0].seen:
                with llm.stream("hi", deadline=50.0) as stream:
                    next(stream)
                    if engines[0].seen:
                        proxy.silent.set()
                        began = time.monotonic()
                        assert len([*stream]) > 1
            assert [part.backend for part in stream.generation.continuations] == ["cloud"]
            assert time.monotonic() - began < 30.0
            proxy.silent.clear()
            tools.eventually(lambda: pool.state().nodes == 2, 15.0)
        proxy.close()


def test_a_call_that_receives_nothing_has_its_node_probed_long_before_the_connection_times_out(pki, tools):
    with tools.Node(pki.node) as node, tools.Node(pki.node) as other:
        proxy = tools.Proxy(node.port)
        pool = GrpcPool([GrpcConfig(target=target, tls=pki.app) for target in (proxy.target, other.target)])
        with client(pool) as llm:
            while not (node.engine.seen and other.engine.seen):
                llm.generate("hi")
            proxy.silent.set()
            # a ping times out after more than three seconds, which is after the deadline
            ask_until(llm, pool, "unreachable", deadline=2.9)
            assert pool.state().ready, "the other one answers"
            assert llm.generate("hi", deadline=2.9).text == "hello from the node"
        proxy.close()


def test_when_one_node_seems_unreachable_the_others_are_probed_meanwhile(nodes, pki, tools):
    proxies, tried = [tools.Proxy(node.port) for node in nodes], []
    pool = GrpcPool([GrpcConfig(target=proxy.target, tls=pki.app) for proxy in proxies])
    with client(pool, hooks=[lambda event: tried.append(event.attempts)]) as llm:
        while not all(node.engine.seen for node in nodes):
            llm.generate("hi")
        time.sleep(1.1)  # none of them was probed a moment ago
        for proxy in proxies:
            proxy.silent.set()
        with pytest.raises(AllBackendsFailed):
            llm.generate("hi", deadline=20.0)
    assert [attempt.error for attempt in tried[-1]] == ["BackendUnavailable"] * 3
    waited = [attempt.elapsed_ms for attempt in tried[-1]]
    assert max(waited[1:]) < 900 < waited[0], "a probe takes a second, and the others had begun by then"
    for proxy in proxies:
        proxy.close()


def test_a_slow_node_is_probed_less_and_less_and_its_answers_are_not_cut_off(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine("ab", delay=1.5)) as node:
        proxy = tools.Proxy(node.port)
        with client(GrpcPool([GrpcConfig(target=proxy.target, tls=pki.app)])) as llm:
            assert llm.generate("hi", deadline=20.0).text == "ab"
            assert proxy.connections <= 4, "one probe to begin with, the call, and a probe or two beside it"
            before = proxy.connections
            assert llm.generate("hi", deadline=20.0).text == "ab"
        assert proxy.connections == before, "it takes as long as ever, which is not suspicious"
        proxy.close()


def test_a_name_is_one_node_for_each_of_its_addresses(pki, tools):
    with tools.Node(pki.node) as node:
        pool = GrpcPool([GrpcConfig(target=f"localhost:{node.port}", tls=pki.app)])
        with client(pool) as llm:
            assert llm.generate("hi", deadline=10.0).text == "hello from the node"


def test_signals_and_metrics_show_each_node_by_itself(pki, tools):
    ahead = 0.0
    dying, registry = tools.FakeEngine(), CollectorRegistry()
    dying.die = True
    with tools.Node(pki.node) as gone:
        address = gone.target
    with tools.Node(pki.node, dying) as first, tools.Node(pki.node) as second:
        configs = [GrpcConfig(target=target, tls=pki.app) for target in (first.target, second.target, address)]
        pool = GrpcPool(configs, clock=lambda: time.monotonic() + ahead)
        with client(pool, hooks=[PrometheusMetrics(registry=registry)]) as llm:

            def members():
                return {node.address: node for node in llm.signals().backends["cloud"].members}

            def state(node: str) -> list[str]:
                labels = {"backend": "cloud", "node": node}
                return [
                    one
                    for one in ("closed", "half_open", "open")
                    if registry.get_sample_value("hybrid_llm_breaker_state", {**labels, "state": one})
                ]

            assert {node.health for node in members().values()} == {"new"}
            assert all(state(node) == ["closed"] for node in (*members(), ""))

            def is_ejected() -> bool:
                nonlocal ahead
                llm.generate("hi", deadline=10.0)
                ahead += 1.0  # it does not rest for longer
                node = members()[first.target]
                if (node.health, node.breaker) != ("ejected", "open") or members()[address].health != "unreachable":
                    return False
                # until a probe finds that it serves
                return (state(first.target), state(second.target), state("")) == (["open"], ["closed"], ["closed"])

            tools.eventually(is_ejected, 20.0)
            assert (members()[address].health, members()[address].reason) == ("unreachable", "BackendUnavailable")
            assert members()[second.target].health == "ready"
            assert members()[second.target].ttft_ms > 0
            health = {"backend": "cloud", "node": address, "health": "unreachable"}
            assert registry.get_sample_value("hybrid_llm_node_health", health) == 1
            dying.die = False
            ahead += 6.0
            tools.eventually(lambda: llm.generate("hi", deadline=10.0) and members()[first.target].health == "ready")
            assert state(first.target) == ["closed"]
        assert {node.health for node in pool.members()} == {"closed"}


def test_a_node_that_lets_deadlines_pass_without_a_token_is_ejected(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine(delay=30.0)) as hung, tools.Node(pki.node) as other:
        pool = GrpcPool([GrpcConfig(target=node.target, tls=pki.app) for node in (hung, other)])
        with client(pool) as llm:
            for _ in range(20):
                with suppress(DeadlineExceeded):
                    llm.generate("hi", deadline=1.0)
                if pool.members()[0].health == "ejected":
                    break
            assert llm.generate("hi", deadline=10.0).text == "hello from the node"
            assert [member.health for member in pool.members()] == ["ejected", "ready"]
            assert llm.signals().backends["cloud"].breaker == "closed"


def test_the_breaker_of_a_single_node_opens_after_as_many_failures_as_the_policy_sets(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine(die_after=0)) as node:
        backend = tools.backend(node.target, pki.app)
        with client(backend) as llm:
            for failures in range(5):
                assert llm.signals().backends["cloud"].breaker == "closed", failures
                with pytest.raises(AllBackendsFailed):
                    llm.generate("hi", deadline=10.0)
            ended = Counter(type(_error_of(llm)).__name__ for _ in range(60))
            assert ended == {"AllBackendsFailed": 60}, "it serves by its probe: nothing is refused"
            node.engine.die_after = None
            tools.eventually(lambda: _error_of(llm) is None, 20.0)


def test_an_answer_ends_a_row_of_failures(pki, tools):
    with tools.Node(pki.node, tools.FakeEngine(die_after=0)) as node:
        backend = tools.backend(node.target, pki.app)
        with client(backend) as llm:
            for _ in range(3):
                node.engine.die_after = 0
                assert all(isinstance(_error_of(llm), AllBackendsFailed) for _ in range(4))
                node.engine.die_after = None
                assert llm.generate("hi", deadline=10.0).text == "hello from the node"
                assert llm.signals().backends["cloud"].breaker == "closed"


def _error_of(llm: HybridLLM) -> HybridLLMError | None:
    time.sleep(0.02)
    try:
        llm.generate("hi", deadline=10.0)
    except HybridLLMError as error:
        return error
    return None


def test_a_probe_asks_every_node_and_fails_only_when_none_answers(pool, nodes):
    assert pool.state().rtt_ms is None
    nodes[0].__exit__()
    description = pool.probe(timeout=10.0)
    assert description.context_window == pool.state().context_window == 4096
    assert pool.state().rtt_ms > 0
    for node in nodes[1:]:
        node.__exit__()
    with pytest.raises(BackendError):
        pool.probe(timeout=5.0)
