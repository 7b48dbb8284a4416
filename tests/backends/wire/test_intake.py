"""What a client may hold of a node: calls, bytes, streams and time. Real gRPC and TLS, and frames made by hand."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.connections import Connections
from hybrid_llm.backends.node.encoding import PromptEncoder
from hybrid_llm.backends.node.intake import Budget, IntakeLimits
from hybrid_llm.backends.wire.channels import client_credentials
from hybrid_llm.core.errors import BackendOverloaded, BackendUnavailable, RequestRejected
from hybrid_llm.core.request import Message, Request
from tests.chaos.http2 import Connection, grpc_message

MEGABYTE = 1024 * 1024
LONG = "word " * 40_000


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def _node(stack, tools, pki, engine=None, **limits):
    config = {name: limits.pop(name) for name in ("max_queue", "max_message_bytes") if name in limits}
    return stack.enter_context(tools.Node(pki.node, engine=engine, intake=IntakeLimits(**limits), **config))


def _answers(tools, node, tls):
    cloud = tools.backend(node.target, tls)
    try:
        return tools.answer(cloud.stream(tools.cleared("hi", deadline=5.0)))
    finally:
        cloud.close()


def _hostile(stack, node, tls, **options):
    connection = Connection(node.port, tls, **options)
    stack.callback(connection.close)
    return connection


def test_a_request_that_never_arrives_whole_ends_in_time_and_holds_nobody_up(stack, tools, pki):
    node = _node(stack, tools, pki, read_timeout=0.4, max_client_bytes=8 * MEGABYTE)
    rogue = _hostile(stack, node, pki.rogue)
    body = grpc_message("x" * MEGABYTE)[:-1]
    for _ in range(6):
        rogue.send([rogue.headers()])
        rogue.data(rogue.last, body[:8000], end=False)
    assert _answers(tools, node, pki.app) == "hello from the node"
    tools.eventually(lambda: len(rogue.answered) == 6)


def test_an_unread_request_holds_no_more_than_a_window_of_memory(stack, tools, pki):
    """The node takes all of a request only once the client may hold it."""
    node = _node(stack, tools, pki, max_client_bytes=1, max_message_bytes=MEGABYTE)
    rogue = _hostile(stack, node, pki.rogue)
    body, sent = grpc_message("x" * (MEGABYTE - 100))[:-1], {}
    for _ in range(20):
        rogue.send([rogue.headers()])
        sent[rogue.last] = 0
    quiet = 0
    while quiet < 30:
        steps = [rogue.data(stream, body[at:], end=False) for stream, at in sent.items()]
        sent = {stream: at + step for (stream, at), step in zip(sent.items(), steps, strict=True)}
        quiet = 0 if any(steps) else quiet + 1
        time.sleep(0.01)
    assert sum(size > 500_000 for size in sent.values()) <= 1
    assert sum(sent.values()) < 20 * 65536 + 2 * MEGABYTE


def test_a_client_sends_no_more_bytes_in_a_second_than_it_may_hold(stack, tools, pki):
    node = _node(stack, tools, pki, max_client_bytes=2 * MEGABYTE, max_message_bytes=MEGABYTE)
    cloud = tools.backend(node.target, pki.rogue)
    stack.callback(cloud.close)
    began = time.monotonic()
    for _ in range(6):
        with pytest.raises(RequestRejected):
            list(cloud.stream(tools.cleared("x" * (MEGABYTE - 1000))))
    assert time.monotonic() - began >= 1.9
    assert _answers(tools, node, pki.app) == "hello from the node"


def test_a_client_with_too_many_calls_is_refused_with_a_time_and_others_are_not(stack, tools, pki):
    node = _node(stack, tools, pki, engine=tools.FakeEngine("x" * 200, delay=0.05, slots=64), max_client_calls=3)
    cloud = tools.backend(node.target, pki.rogue)
    stack.callback(cloud.close)
    running = [cloud.stream(tools.cleared("hi")) for _ in range(3)]
    for stream in running:
        stack.callback(stream.close)
        next(stream)
    with pytest.raises(BackendOverloaded, match="this client has 3 calls open") as caught:
        list(cloud.stream(tools.cleared("hi")))
    assert caught.value.retry_after > 0
    assert _answers(tools, node, pki.app).startswith("x")
    running.pop().close()
    tools.eventually(lambda: node.engine.active <= 2)
    assert _answers(tools, node, pki.rogue).startswith("x")


def test_the_node_bounds_the_calls_of_all_clients_and_keeps_none_out(stack, tools, pki):
    node = _node(stack, tools, pki, engine=tools.FakeEngine("x" * 200, delay=0.02, slots=64), max_calls=2)
    cloud = tools.backend(node.target, pki.rogue)
    stack.callback(cloud.close)
    for _ in range(2):
        stream = cloud.stream(tools.cleared("hi"))
        stack.callback(stream.close)
        next(stream)
    with pytest.raises(BackendOverloaded, match="the node is full: 2 calls are open"):
        _answers(tools, node, pki.rogue)
    assert _answers(tools, node, pki.app).startswith("x")


def test_clients_that_fill_the_memory_for_requests_keep_no_other_out(stack, tools, pki):
    node = _node(stack, tools, pki, max_request_bytes=1, max_client_bytes=1, max_message_bytes=MEGABYTE)
    rogue = _hostile(stack, node, pki.rogue)
    for _ in range(3):
        rogue.send([rogue.headers()])
        rogue.data(rogue.last, grpc_message("x" * 9000)[:-1], end=False)
    assert _answers(tools, node, pki.app) == "hello from the node"


def test_a_reader_that_takes_nothing_loses_its_place(stack, tools, pki):
    engine = tools.FakeEngine("x" * 50, slots=2)
    node = _node(stack, tools, pki, engine=engine, write_timeout=0.3, max_queue=0)
    rogue = _hostile(stack, node, pki.rogue, window=0)
    for _ in range(2):
        rogue.ask("hi")
    tools.eventually(lambda: engine.active == 2)
    with pytest.raises(BackendOverloaded):
        _answers(tools, node, pki.app)
    tools.eventually(lambda: engine.active == 0)
    assert _answers(tools, node, pki.app) == "x" * 50
    assert rogue.open


@pytest.mark.parametrize("max_queue", [4, 0])
def test_a_reader_that_takes_nothing_keeps_its_place_until_another_wants_it(stack, tools, pki, max_queue):
    """Also where the other one is refused, and does not wait."""
    engine = tools.FakeEngine("x" * 50, slots=2)
    node = _node(stack, tools, pki, engine=engine, write_timeout=600.0, stall_grace=0.1, max_queue=max_queue)
    rogue = _hostile(stack, node, pki.rogue, window=0)
    for _ in range(2):
        rogue.ask("hi")
    tools.eventually(lambda: engine.active == 2)
    time.sleep(0.5)
    assert engine.active == 2
    cloud = tools.backend(node.target, pki.app)
    stack.callback(cloud.close)
    tools.eventually(lambda: _tries(tools, cloud, "x" * 50))
    assert engine.aborted >= 1


def test_a_connection_of_many_readers_that_take_nothing_is_closed(stack, tools, pki):
    node = _node(stack, tools, pki, engine=tools.FakeEngine(slots=64), write_timeout=0.2)
    rogue = _hostile(stack, node, pki.rogue, window=0)
    for _ in range(12):
        rogue.ask("hi")
    tools.eventually(lambda: not rogue.open)
    assert _answers(tools, node, pki.app) == "hello from the node"


def test_a_connection_that_resets_its_calls_is_closed_and_others_are_served(stack, tools, pki):
    node = _node(stack, tools, pki, max_faults=50)
    rogue = _hostile(stack, node, pki.rogue)
    calm = _hostile(stack, node, pki.rogue)

    def resets():
        for _ in range(20):
            yield rogue.headers()
            yield rogue.reset(rogue.last)

    end = time.monotonic() + 10
    while rogue.open and time.monotonic() < end:
        rogue.send(resets())
        rogue.rooms.clear()
        time.sleep(0.01)
    assert not rogue.open
    assert _answers(tools, node, pki.app) == "hello from the node"
    stream = calm.ask("hi")
    tools.eventually(lambda: stream in calm.answered)


def test_an_app_that_cancels_now_and_then_keeps_its_connection(stack, tools, pki):
    node = _node(stack, tools, pki, engine=tools.FakeEngine("x" * 200, delay=0.01, slots=64))
    calm = _hostile(stack, node, pki.app)
    for _ in range(40):
        stream = calm.ask("hi")
        calm.send([calm.reset(stream)])
    stream = calm.ask("hi", max_tokens=4)
    tools.eventually(lambda: stream in calm.answered)


def test_a_connection_has_no_more_streams_than_allowed(stack, tools, pki):
    node = _node(stack, tools, pki, engine=tools.FakeEngine("x" * 200, delay=0.05, slots=64), max_streams=4)
    rogue = _hostile(stack, node, pki.rogue)
    tools.eventually(lambda: rogue.acknowledged)
    for _ in range(12):
        rogue.ask("hi")
    tools.eventually(lambda: len(rogue.answered) >= 8 or not rogue.open)
    assert node.engine.active <= 4


def test_a_node_has_no_more_connections_than_allowed(stack, tools, pki):
    node = _node(stack, tools, pki, max_connections=3)
    held = [_hostile(stack, node, pki.rogue) for _ in range(3)]
    streams = [each.ask("hi") for each in held]
    tools.eventually(lambda: all(stream in each.answered for stream, each in zip(streams, held, strict=True)))
    with pytest.raises(BackendUnavailable):
        _answers(tools, node, pki.app)
    held.pop().close()
    cloud = tools.backend(node.target, pki.app)
    stack.callback(cloud.close)
    tools.eventually(lambda: _tries(tools, cloud))


def _tries(tools, cloud, answer="hello from the node"):
    try:
        return tools.answer(cloud.stream(tools.cleared("hi"))) == answer
    except (BackendOverloaded, BackendUnavailable):
        return False


def test_a_prompt_far_beyond_the_context_is_refused_after_a_part_of_it(stack, tools, pki):
    node = _node(stack, tools, pki)
    cloud = tools.backend(node.target, pki.app)
    stack.callback(cloud.close)
    with pytest.raises(RequestRejected, match=r"prompt tokens and max_tokens 64 exceed the context") as caught:
        list(cloud.stream(tools.cleared(LONG)))
    assert caught.value.reason == "context_overflow"
    assert not node.engine.seen


class Counting:
    """A tokenizer whose work takes until it is let go; it counts the pieces that it was given."""

    def __init__(self, tokens: int) -> None:
        self.tokens, self.pieces, self.encoded = tokens, 0, 0
        self.go = threading.Event()

    def least_tokens(self, request: Request) -> int:
        return 0

    def count(self, text: str) -> int:
        self.pieces += 1
        self.go.wait(10)
        return self.tokens

    def encode(self, request: Request) -> list[int]:
        self.encoded += 1
        return [1] * self.tokens


def _request(text: str) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=4, deadline=10.0)


def test_the_work_of_a_call_that_ended_is_dropped():
    async def main():
        tokenizer = Counting(10)
        encoder = PromptEncoder(tokenizer)
        calls = [asyncio.create_task(encoder.encode(_request("x" * 4 * MEGABYTE), 100)) for _ in range(20)]
        await asyncio.sleep(0.1)
        assert tokenizer.pieces == 2
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        tokenizer.go.set()
        await asyncio.sleep(0.1)
        assert (tokenizer.pieces, tokenizer.encoded) == (2, 0)

    asyncio.run(main())


def test_counting_ends_as_soon_as_the_context_is_exceeded():
    async def main():
        tokenizer = Counting(60)
        tokenizer.go.set()
        with pytest.raises(RequestRejected, match="at least 112 prompt tokens and max_tokens 4 exceed"):
            await PromptEncoder(tokenizer).encode(_request("x" * 4 * MEGABYTE), 100)
        assert (tokenizer.pieces, tokenizer.encoded) == (2, 0)

    asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.booleans()), max_size=40))
def test_a_budget_is_never_exceeded_and_everyone_gets_a_turn(asked):
    async def main():
        budget, used = Budget(10, 6), {"a": 0, "b": 0, "c": 0}

        async def hold(client, size):
            await budget.acquire(client, size)
            used[client] += size
            try:
                assert used[client] <= 6
                assert sum(used.values()) <= 10 or used[client] == size, "only a client's first one may exceed it"
                await asyncio.sleep(0)
            finally:
                used[client] -= size
                budget.release(client, size)

        tasks = [(asyncio.create_task(hold(client, size)), leaves) for client, size, leaves in asked]
        await asyncio.sleep(0)
        for task, leaves in tasks:
            if leaves:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*(task for task, _ in tasks), return_exceptions=True), 5)
        assert all(task.cancelled() or task.exception() is None for task, _ in tasks)

    asyncio.run(main())


def test_faults_are_forgotten_with_time():
    closed, now = [], [0.0]
    connections = Connections(10, hang_up=lambda peer: not closed.append(peer), clock=lambda: now[0])
    for _ in range(30):
        connections.fault("ipv4:192.0.2.7:1", "app")
        now[0] += 1.0
    assert not closed
    for number in range(10):
        connections.fault("ipv4:192.0.2.7:1", "rogue")
        if number % 2:
            connections.fault("ipv4:192.0.2.7:2", "app", 0.05)
    assert closed == ["ipv4:192.0.2.7:1"]


def test_a_client_whose_connection_was_closed_gains_little_by_connecting_again():
    closed, now = [], [0.0]
    connections = Connections(100, hang_up=lambda peer: not closed.append(peer), clock=lambda: now[0])

    def faults_until_closed(port, client):
        count = 0
        while f"ipv4:192.0.2.7:{port}" not in closed:
            connections.fault(f"ipv4:192.0.2.7:{port}", client)
            count += 1
        return count

    assert faults_until_closed(1, "rogue") == 100
    assert faults_until_closed(2, "rogue") == 10
    assert faults_until_closed(3, "app") == 100
    now[0] = 61.0
    assert faults_until_closed(4, "rogue") == 100


def test_limits_out_of_range_are_refused():
    from hybrid_llm.core.errors import ConfigError

    with pytest.raises(ConfigError, match="max_streams"):
        IntakeLimits(max_streams=0)


def test_a_late_status_carries_no_text_of_the_request(stack, tools, pki):
    node = _node(stack, tools, pki, read_timeout=0.3)
    with grpc.secure_channel(node.target, client_credentials(pki.app)) as channel:
        call = channel.stream_stream("/hybrid_llm.v1.HybridLLM/Generate")(
            _never(), metadata=(("hybrid-llm-protocol", "1"),), timeout=10
        )
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive whole within 0.3 seconds" in caught.value.details()


def _never():
    time.sleep(2.0)
    return
    yield
