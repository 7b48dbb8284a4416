"""Names of nodes and their addresses: name servers that hang, names that resolve elsewhere, nodes that have moved."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig, GrpcPool
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded, UntrustedPeer


class NameServer:
    """Stands in for the name servers: what a name resolves to, whether they respond, and which names were queried."""

    def __init__(self, **addresses: str):
        self.addresses = {name.replace("_", "."): value.split() for name, value in addresses.items()}
        self.queried: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, host, port, **_):
        self.queried.append(host)
        if not self.go.wait(10.0):  # as long as the C library waits, or longer
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if not self.addresses.get(host):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses[host]]


def node_at(address, pki, tools, port=0, answer="hello"):
    return tools.Node(pki.node, tools.FakeEngine(answer), listen=f"{address}:{port}")


def single(port, pki, names) -> GrpcBackend:
    config = GrpcConfig(target=f"node.test:{port}", tls=pki.app, server_name="localhost")
    return GrpcBackend(config, lookup=Lookup(names))


def ask(backend, tools, **fields) -> str:
    return tools.answer(backend.stream(tools.cleared(**fields)))


def test_a_name_is_looked_up_once_for_all_callers_at_the_same_time():
    names = NameServer(node_test="127.0.0.1 127.0.0.2 127.0.0.1")
    names.go.clear()
    lookup = Lookup(names)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(lookup, "node.test", 20.0) for _ in range(4)]
        while not names.queried:
            time.sleep(0.01)
        time.sleep(0.1)
        names.go.set()
        assert {each.result() for each in waiting} == {("127.0.0.1", "127.0.0.2")}
    assert len(names.queried) == 1
    lookup("node.test", 20.0)
    assert len(names.queried) == 2, "nothing is cached: the machine's own resolver does that"


def test_a_look_up_is_not_waited_for_any_longer_than_its_timeout():
    names = NameServer(node_test="127.0.0.1")
    names.go.clear()
    with pytest.raises(TimeoutError):
        Lookup(names)("node.test", 0.1)
    names.go.set()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_needs_no_name_server(address):
    names = NameServer()
    assert Lookup(names)(address, 0.0) == (address,)
    assert names.queried == []


def test_name_servers_that_hang_cost_no_more_than_the_time_there_is(pki, tools):
    names = NameServer(node_test="127.0.0.1")
    names.go.clear()
    node = single(1, pki, names)
    several = [GrpcConfig(target=f"{name}.test:1", tls=pki.app) for name in ("node", "second", "third")]
    pool = GrpcPool(several, lookup=Lookup(names))
    for backend in (node, pool):
        began = time.monotonic()
        with pytest.raises((BackendUnavailable, DeadlineExceeded)):
            ask(backend, tools, deadline=0.3)
        with pytest.raises((BackendUnavailable, DeadlineExceeded)):
            asyncio.run(tools.collect(backend.astream(tools.cleared(deadline=0.3))))
        assert time.monotonic() - began < 5.0, "a look-up of the C library takes ten seconds and more"
    assert len(names.queried) == 4, "all of the pool, and the single one"
    names.go.set()
    node.close()
    pool.close()


def test_many_first_requests_of_a_name_all_get_its_nodes(pki, tools):
    with node_at("127.0.0.1", pki, tools) as node:
        names = NameServer(node_test="127.0.0.1")
        names.go.clear()
        config = GrpcConfig(target=f"node.test:{node.port}", tls=pki.app, server_name="localhost")
        pool = GrpcPool([config], lookup=Lookup(names))
        with ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(ask, pool, tools) for _ in range(4)]
            time.sleep(0.2)
            names.go.set()
            assert {each.result() for each in answers} == {"hello"}
        pool.close()


def test_once_it_has_answered_a_node_is_found_without_name_servers(pki, tools):
    with node_at("127.0.0.1", pki, tools) as node:
        names = NameServer(node_test="127.0.0.1")
        backend = single(node.port, pki, names)
        assert ask(backend, tools) == "hello"
        names.addresses.clear()
        backend._connection.drop()  # as after a failure
        assert ask(backend, tools) == "hello"
        assert not backend.health.fault
        backend.close()


@contextmanager
def one_that_moves(pki, tools):
    """A client that had an answer at 127.0.0.1, the node's port, and the names, which now resolve to 127.0.0.2."""
    names = NameServer(node_test="127.0.0.1")
    with node_at("127.0.0.1", pki, tools, answer="first") as node:
        backend = single(node.port, pki, names)
        assert ask(backend, tools) == "first"
    names.addresses["node.test"] = ["127.0.0.2"]
    yield backend, node.port, names
    backend.close()


def test_a_node_that_has_moved_is_found_by_its_name(pki, tools):
    with one_that_moves(pki, tools) as (backend, port, _), node_at("127.0.0.2", pki, tools, port, answer="moved"):
        assert answers_again(backend, tools) == "moved"


def test_when_a_stranger_has_the_old_address_the_node_is_found_at_its_new_one(pki, tools):
    with (
        one_that_moves(pki, tools) as (backend, port, names),
        tools.Node(pki.foreign_node, listen=f"127.0.0.1:{port}") as stranger,
        node_at("127.0.0.2", pki, tools, port, answer="moved"),
    ):
        assert answers_again(backend, tools) == "moved"
        assert stranger.engine.seen == []
        names.addresses["node.test"] = ["127.0.0.1"]
        other = single(port, pki, names)
        with pytest.raises(UntrustedPeer):
            ask(other, tools)
        other.close()


def has_queried(names: NameServer, times: int) -> bool:
    return len(names.queried) >= times


def answers_again(backend, tools) -> str:
    """Ask until there is an answer: the first may find the old connection broken."""
    end = time.monotonic() + 20.0
    while True:
        try:
            return ask(backend, tools)
        except BackendUnavailable:
            assert time.monotonic() < end


def test_the_second_address_is_tried_when_the_first_does_not_respond(pki, tools):
    mute = socket.create_server(("127.0.0.3", 0))  # it has five seconds at most, half of them if another is to be tried
    with node_at("127.0.0.2", pki, tools, mute.getsockname()[1]) as node:
        backend = single(node.port, pki, NameServer(node_test="127.0.0.3 127.0.0.2"))
        assert ask(backend, tools, deadline=4.5) == "hello"
        backend.close()
    mute.close()


def test_a_name_that_no_longer_resolves_keeps_its_last_endpoints(pki, tools):
    now = [0.0]
    names = NameServer(node_test="127.0.0.1 127.0.0.2")
    with node_at("127.0.0.1", pki, tools) as node, node_at("127.0.0.2", pki, tools, node.port):
        config = GrpcConfig(target=f"node.test:{node.port}", tls=pki.app, server_name="localhost")
        pool = GrpcPool([config], lookup=Lookup(names), clock=lambda: now[0])
        assert ask(pool, tools) == "hello"
        known = [member.address for member in pool.members()]
        assert known == [f"127.0.0.1:{node.port}", f"127.0.0.2:{node.port}"]
        names.addresses.clear()

        def queried(times: int) -> bool:
            now[0] += 11.0  # a look-up that still runs is not begun again, so each call comes with a due one
            assert ask(pool, tools) == "hello"
            return has_queried(names, times)

        for times in (2, 3, 4):
            tools.eventually(partial(queried, times))
        time.sleep(0.1)
        assert [member.address for member in pool.members()] == known
        pool.close()
