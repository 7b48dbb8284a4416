"""Gateways behind HAProxy, with the shipped configuration: a rolling restart loses no request."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.core.request import Location
from hybrid_llm.gateway import GatewayConfig
from hybrid_llm.gateway.server import GatewayServer
from hybrid_llm.policies import parse_policy
from tests.chaos.haproxy import HAPROXY, running
from tests.gateway.test_http import ALONE, ASKED, CHAT, Slow, send

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt-get install haproxy")


class Running:
    """A gateway at a port, whose answers take 0.2 s."""

    def __init__(self, port: int) -> None:
        client = HybridLLM([Slow(tokens=10)], parse_policy(ALONE, backends={"edge": Location.EDGE}))
        self._server = GatewayServer(client, GatewayConfig(listen=f"127.0.0.1:{port}", drain_s=2.0))
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve(ready.set)))
        self._thread.start()
        assert ready.wait(20)

    def stop(self) -> None:
        self._server.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_a_rolling_restart_loses_no_request(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [one.getsockname()[1], two.getsockname()[1]]
    gateways = [Running(port) for port in ports]
    answers: list[tuple[int, bool]] = []
    end = threading.Event()

    def ask(url: str, stream: bool) -> None:  # noqa: FBT001
        while not end.is_set():
            reply = send(url, CHAT, ASKED | {"stream": stream}, host="localhost")
            answers.append((reply.status, reply.raw.count(b"word") == 10))

    variables = {f"HYBRID_GATEWAY_{number}": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)}
    with running("gateway.cfg", tmp_path / "log", **variables) as port:
        askers = [threading.Thread(target=ask, args=(f"http://127.0.0.1:{port}", at % 2 == 0)) for at in range(4)]
        for asker in askers:
            asker.start()
        for at, each in enumerate(gateways):
            each.stop()
            gateways[at] = Running(ports[at])
            time.sleep(1.5)  # until HAProxy has seen it
        end.set()
        for asker in askers:
            asker.join(30)
    for each in gateways:
        each.stop()
    assert set(answers) == {(200, True)}
    assert len(answers) > 50
