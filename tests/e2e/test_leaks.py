"""Over the real wire: what must stay moves no byte, what may go carries no value, and no log tells a word."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.cli.demo.world import RecordingProxy
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import FixedSensors
from tests.leaks.canaries import Canaries, leaked
from tests.leaks.witness import rendered

POLICY = """\
version: 1
name: leaks
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
rules: [{prefer: [cloud, edge]}]
"""


@pytest.fixture
def events() -> list[RequestEvent]:
    return []


@pytest.fixture
def proxy(node):
    with RecordingProxy(delay_s=0.0) as running:
        running.target_port = node.port
        yield running


@pytest.fixture
def llm(node, proxy, events):
    policy = parse_policy(POLICY, backends={"edge": Location.EDGE, "cloud": Location.CLOUD})
    backends = [EdgeBackend(EdgeConfig()), node.cloud(proxy.port)]
    with HybridLLM(backends, policy, sensors=FixedSensors(), hooks=[events.append]) as client:
        yield client


def ask(llm: HybridLLM, how: str, text: str, **options) -> str:
    """The backend that answered."""
    if how == "agenerate":
        return asyncio.run(llm.agenerate(text, max_tokens=8, **options)).backend
    if how == "stream":
        with llm.stream(text, max_tokens=8, **options) as stream:
            list(stream)
            return stream.backend
    return llm.generate(text, max_tokens=8, **options).backend


@pytest.mark.parametrize(("how", "seed"), [("generate", 1), ("stream", 2), ("agenerate", 3)])
def test_what_must_stay_moves_no_byte_and_what_goes_carries_no_value_and_no_log_tells(
    node, proxy, llm, events, caplog, capfd, how, seed
):
    source = Canaries(seed)
    here, there, value = source.word(), source.word(), source.value("email")
    record, since = source.value("medical_record"), len(node.process.witnessed())
    with caplog.at_level(logging.DEBUG):
        assert ask(llm, how, f"{there}: write to {value}.") == "cloud"
        time.sleep(0.3)
        before = proxy.bytes_to_node
        assert before > 0
        assert ask(llm, how, here, privacy={"phi"}) == "edge"
        assert ask(llm, how, f"{here} {record}, write to {value}.") == "edge"
        time.sleep(0.3)
        assert proxy.bytes_to_node == before
    told = "\n".join(node.process.witnessed()[since:])
    assert leaked([here, there, value, record], told) == [there], "the node reads what may go, and nothing else"
    assert "EMAIL_" in told
    logs = [caplog.text, *capfd.readouterr(), node.log.read_text(errors="replace")]
    logs += [text for event in events for text in rendered(event, {})]
    assert len(events) == 3
    assert leaked([here, there, value, record], "\n".join(logs)) == []
