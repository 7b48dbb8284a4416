"""A real node in a process of its own, over the trained demonstration model, with certificates of a private CA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.cli.demo.node import NodeProcess
from hybrid_llm.core.request import Location
from hybrid_llm.policies import Policy, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors

ROOT = Path(__file__).resolve().parents[2]
NODE_MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
POLICY = """\
version: 1
name: e2e
tags:
  phi:    {allow: [edge], detect: [medical_record, email]}
  public: {allow: [edge, cloud]}
rules:
  - exclude: edge
    when: request.prompt_tokens + request.max_tokens > edge.context_window
    because: the prompt does not fit the device's model
  - prefer: [cloud, edge]
    when: request.task == "far"
  - prefer: [edge, cloud]
resilience: {retries: 0, breaker: {failures: 3, open: 1s}}
"""


def policy() -> Policy:
    return parse_policy(POLICY, backends={"edge": Location.EDGE, "cloud": Location.CLOUD})


@dataclass(frozen=True)
class Node:
    """A running node: where it listens, the certificates around it and its log."""

    process: NodeProcess
    port: int
    tls: Path
    log: Path

    def cloud(self, port: int | None = None, **options) -> GrpcBackend:
        files = TLSFiles.from_dir(self.tls, "app")
        return GrpcBackend(GrpcConfig(target=f"127.0.0.1:{port or self.port}", tls=files, **options))

    def client(self, port: int | None = None, **options) -> HybridLLM:
        edge = EdgeBackend(EdgeConfig())
        return HybridLLM([edge, self.cloud(port)], policy(), sensors=FixedSensors(), **options)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=["127.0.0.1", "localhost"])
    issue(folder, "app", kind="client")
    return folder


@pytest.fixture(scope="session")
def node(certificates, tmp_path_factory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    process = NodeProcess(NODE_MODEL, certificates, folder, witness=folder / "witness.jsonl")
    process.launch()
    port = process.wait()
    yield Node(process, port, certificates, folder / "node.log")
    process.stop()


@pytest.fixture
def own_node(certificates, tmp_path) -> Iterator[Node]:
    """A node that the test may kill."""
    process = NodeProcess(NODE_MODEL, certificates, tmp_path)
    process.launch()
    port = process.wait()
    yield Node(process, port, certificates, tmp_path / "node.log")
    process.stop()
