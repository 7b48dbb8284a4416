"""Tools through the whole way: device and a real node behind TLS, the guard between them."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest

from benchmarks._resilience import client
from benchmarks._tool_cuts import ask_cut, variants
from benchmarks.tools import Judge, calls, device
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors

POLICY = """\
version: 1
name: tools
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
rules:
  - prefer: [edge, cloud]
    when: request.task == "near"
  - prefer: [cloud, edge]
resilience: {retries: 0, continue_streams: true}
"""
MAIL = "jane.doe@example.org"
Mail = Literal["jane.doe@example.org", "j.doe@example.com"]


def send(to: Mail, *, urgent: bool = False) -> str:
    """Send a mail to jane.doe@example.org or somebody else."""
    return f"sent to {to}"


@pytest.fixture
def llm(node):
    policy = parse_policy(POLICY, backends={"edge": Location.EDGE, "cloud": Location.CLOUD})
    with HybridLLM([EdgeBackend(EdgeConfig()), node.cloud()], policy, sensors=FixedSensors()) as client:
        yield client


@pytest.mark.parametrize(("task", "backend"), [("near", "edge"), ("far", "cloud")])
def test_device_and_node_call_tools_with_arguments_that_validate_and_the_node_sees_pseudonyms(node, llm, task, backend):
    since = len(node.process.witnessed())
    for seed in range(3):
        options = {"tools": [send], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 128}
        stream = llm.stream(f"Write to {MAIL}.", task=task, temperature=1.0, seed=seed, **options)
        deltas = [delta for chunk in stream for delta in chunk.tool_calls]
        reply = stream.generation
        assert (reply.backend, reply.finish_reason) == (backend, FinishReason.TOOL_CALLS)
        assert reply.tool_calls[0].values["to"] in (MAIL, "j.doe@example.com")
        assert "".join(delta.arguments for delta in deltas) == reply.tool_calls[0].arguments
    seen = "\n".join(node.process.witnessed()[since:])
    assert MAIL not in seen
    assert (task == "far") is ("EMAIL_" in seen)


def test_the_loop_stays_on_the_node_and_sends_results_under_pseudonyms(node, llm):
    since = len(node.process.witnessed())
    run = asyncio.run(
        llm.arun_tools("Write.", tools=[send], tool_choice="send", max_steps=2, max_tokens=64, task="far")
    )
    assert [reply.backend for reply in run.replies] == ["cloud", "cloud"]
    assert run.steps[0].result in ("sent to jane.doe@example.org", "sent to j.doe@example.com")
    seen = "\n".join(node.process.witnessed()[since:])
    assert "sent to EMAIL_" in seen
    assert MAIL not in seen


@pytest.fixture(scope="module")
def devices(tmp_path_factory):
    """The device's model with the template of Hermes, and with one that begins with reasoning."""
    edges, _ = variants(tmp_path_factory.mktemp("variants"))
    with device(edges["hermes"]) as hermes, device(edges["thinks"]) as thinks:
        yield hermes, thinks


@pytest.mark.parametrize("direction", ["edge to node", "node to edge"])
def test_a_call_cut_in_arguments_or_reasoning_goes_on_to_a_valid_one_under_another_template(node, devices, direction):
    judge, cloud = Judge(), node.cloud()
    for number in range(12):
        pair = (devices[number % 2], cloud)
        judge.add_cut(ask_cut(*(pair if direction == "edge to node" else reversed(pair)), number))
    assert judge.faults == []
    assert judge.counts["continued"] > 0
    assert judge.counts["valid"] > 0


@pytest.mark.weights
@pytest.mark.slow
def test_calls_of_real_weights_parse_and_validate(smollm2_folder):
    judge = Judge()
    with device(smollm2_folder) as backend, client([backend], "retries: 0") as llm:
        calls(llm, judge, 3, workers=1)
    assert judge.faults == []
    assert judge.counts["valid"] == judge.counts["calls"] >= 3
