"""A client of a node that is dropped without `close` gives back its threads and its connections."""

import asyncio
import gc
import os
import threading
import time

import pytest

from hybrid_llm import HybridLLM

CONFIG = """
version: 1
policy: policy.yaml
backends:
  cloud: {{kind: grpc, target: "{target}", tls: {{ca: {tls.ca}, cert: {tls.cert}, key: {tls.key}}}}}
"""
POLICY = "version: 1\nname: p\ntags: {}\nrules:\n  - prefer: cloud\n"


@pytest.fixture
def config(node, pki, tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "hybrid.yaml").write_text(CONFIG.format(target=node.target, tls=pki.app))
    return tmp_path / "hybrid.yaml"


def held():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are counted in /proc")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_dropped_clients_leave_neither_threads_nor_descriptors(config):
    async def ask():
        return (await HybridLLM.from_config(config).agenerate("hello")).backend

    def both():
        assert HybridLLM.from_config(config).generate("hello").backend == "cloud"
        assert asyncio.run(ask()) == "cloud"
        gc.collect()

    both()
    before = held()
    for _ in range(10):
        both()
    end = time.monotonic() + 20.0
    while (now := held()) > before and time.monotonic() < end:
        gc.collect()
        time.sleep(0.05)
    assert now[0] <= before[0] + 1
    assert now[1] <= before[1] + 4, "the connections of 20 clients would be more"
