"""What a node is told, read at its engine, behind TLS, gRPC and the chat template: pseudonyms and no values."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.request import Location
from hybrid_llm.policies import KNOWN_DETECTORS, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.signals import FixedSensors

POLICY = """\
version: 1
name: pseudonyms
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, phone]}
rules:
  - prefer: [cloud, edge]
"""
ADDRESSES = ["jane.doe@example.org", "j.doe@example.com"]
PHONE = "+1 202 555 0147"
TEXT = f"Write to {ADDRESSES[0]} or {ADDRESSES[1]}, or call {PHONE}. Where to send the bill?"
FORM = {"type": "object", "properties": {"to": {"enum": ADDRESSES}}, "required": ["to"], "additionalProperties": False}


@pytest.fixture
def llm(node):
    policy = parse_policy(POLICY, backends={"edge": Location.EDGE, "cloud": Location.CLOUD})
    with HybridLLM([EdgeBackend(EdgeConfig()), node.cloud()], policy, sensors=FixedSensors()) as client:
        yield client


def told(node, since: int) -> str:
    return "\n".join(node.process.witnessed()[since:])


def held_back(text: str) -> bool:
    return not any(value in text for value in (*ADDRESSES, PHONE))


@pytest.mark.parametrize("way", ["generate", "stream", "agenerate"])
def test_the_app_gets_its_value_back_and_the_node_never_has_it(node, llm, way):
    since = len(node.process.witnessed())
    if way == "stream":
        text = "".join(chunk.text for chunk in llm.stream(TEXT, output_schema=FORM, max_tokens=64))
        assert any(address in text for address in ADDRESSES)
    else:
        options = {"output_schema": FORM, "max_tokens": 64}
        reply = llm.generate(TEXT, **options) if way == "generate" else asyncio.run(llm.agenerate(TEXT, **options))
        assert reply.backend == "cloud"
        assert reply.parsed["to"] in ADDRESSES
    words = told(node, since)
    assert words.count("EMAIL_") >= 4, "two in the text, two in the schema"
    assert "TEL_" in words
    assert held_back(words)


def test_a_session_keeps_its_pseudonyms_and_what_was_found_stays_hidden_in_later_turns(node, llm):
    since = len(node.process.witnessed())
    turns = [{"role": "user", "content": TEXT}]
    reply = llm.generate(turns, session_id="s", max_tokens=16)
    turns += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": f"And not {ADDRESSES[0]}?"}]
    llm.generate(turns, session_id="s", max_tokens=16)
    first, second = node.process.witnessed()[since:]
    names = {word.strip(",.") for word in first.split() if word.startswith("EMAIL_")}
    assert len(names) == 2
    assert all(name in second for name in names)
    assert held_back(first + second)


def test_a_tag_that_stays_on_the_device_beside_one_that_may_leave_tells_the_node_nothing(node, llm):
    since = len(node.process.witnessed())
    assert llm.generate(f"Patient number 77-1234. {TEXT}", max_tokens=8).backend == "edge"
    assert told(node, since) == ""


def test_names_go_to_the_node_as_pseudonyms_where_their_model_is_installed(node, tmp_path):
    """The configuration says nothing about names, and the policy takes them where there is a model."""
    config = parse_config("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n", tmp_path / "hybrid.yaml")
    text = POLICY.replace("detect: [email, phone]", "detect: [email, phone], detect_if_available: [names]")
    backends = {"edge": Location.EDGE, "cloud": Location.CLOUD}
    policy = parse_policy(text, backends=backends, detectors=KNOWN_DETECTORS | config.detector_names)
    form = {"type": "object", "properties": {"for": {"enum": ["Jane Doe"]}}, "required": ["for"]}
    form["additionalProperties"] = False
    since = len(node.process.witnessed())
    clients = [EdgeBackend(EdgeConfig()), node.cloud()]
    with HybridLLM(clients, policy, sensors=FixedSensors(), detectors=config.open_detectors()) as llm:
        reply = llm.generate("My name is Jane Doe, mail jane@example.org", output_schema=form, max_tokens=64)
    assert (reply.backend, reply.parsed) == ("cloud", {"for": "Jane Doe"})
    words = told(node, since)
    assert "PERSON_" in words
    assert "EMAIL_" in words
    assert not any(value in words for value in ("Jane", "Doe", "jane@example.org"))
