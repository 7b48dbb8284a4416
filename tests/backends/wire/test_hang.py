"""The engine of a served node is stopped by SIGSTOP, with default settings: health says so, and it is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
from hybrid_llm.backends.wire.channels import client_credentials
from hybrid_llm.core.errors import BackendUnavailable, StreamInterrupted
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors

pytest.importorskip("torch", reason="the node's engine needs: pip install 'hybrid-llm[node]'")
MODEL = Path(__file__).parents[3] / "examples" / "models" / "hybrid-demo-node"
SERVING, NOT_SERVING = 1, 2


@contextmanager
def _served(folder, ready):
    """The process of `hybrid-llm serve`, and its port."""
    command = [sys.executable, "-m", "hybrid_llm.cli.main", "serve", "--model", MODEL, "--tls", folder]
    node = subprocess.Popen([*command, "--listen", "127.0.0.1:0", "--ready-file", ready], stderr=subprocess.PIPE)
    try:
        while not ready.exists():
            assert node.poll() is None, node.stderr.read()
            time.sleep(0.05)
        yield node, int(ready.read_text())
    finally:
        node.kill()
        node.communicate()


def _engine(node):
    (child,) = (each for each in psutil.Process(node.pid).children() if "-m" in each.cmdline())  # not the log's reader
    return child.pid


def _client(targets, tls):
    pool = GrpcPool([GrpcConfig(target=target, tls=tls) for target in targets])
    policy = parse_policy("version: 1\nname: two nodes\n", backends={"cloud": Location.CLOUD})
    return HybridLLM([pool], policy, sensors=FixedSensors())


@pytest.mark.skipif(not MODEL.exists(), reason="examples/models/hybrid-demo-node is not there: make models")
def test_a_stopped_engine_is_reported_and_replaced_while_requests_go_elsewhere(pki, tools, tmp_path):
    with _served(pki.folder, tmp_path / "ready") as (node, port), tools.Node(pki.node) as other:
        target, stopped = f"127.0.0.1:{port}", _engine(node)
        with (
            grpc.secure_channel(target, client_credentials(pki.app)) as channel,
            ThreadPoolExecutor(1) as thread,
        ):
            check = health_pb2_grpc.HealthStub(channel).Check

            def health():
                return check(health_pb2.HealthCheckRequest()).status

            def ask():
                cloud = tools.backend(target, pki.app)
                return tools.answer(cloud.stream(tools.cleared("Hello", deadline=300.0)))

            assert health() == SERVING
            os.kill(stopped, signal.SIGSTOP)
            waiting = thread.submit(ask)
            tools.eventually(lambda: health() == NOT_SERVING, 30.0)
            with _client([target, other.target], pki.app) as llm:
                assert {llm.generate("hi", deadline=20.0).text for _ in range(10)} == {"hello from the node"}
            tools.eventually(lambda: not psutil.pid_exists(stopped), 60.0)
            with pytest.raises((BackendUnavailable, StreamInterrupted)):
                waiting.result(60)
            tools.eventually(lambda: health() == SERVING, 120.0)
            assert ask()
