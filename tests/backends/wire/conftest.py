"""Certificates made once, and a node of the default kind, for the tests of the wire."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.channels import server_credentials
from hybrid_llm.backends.wire.sealing.keys import write_key
from hybrid_llm.backends.wire.sealing.suites import HYBRID
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMServicer, add_HybridLLMServicer_to_server


def _load_fakes():
    spec = importlib.util.spec_from_file_location("wire_fakes", Path(__file__).with_name("fakes.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fakes = _load_fakes()


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """TLSFiles by name: node, app and faulty ones of one authority; `stranger` has another authority."""
    home, other = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("other")
    now = datetime.now(UTC)
    hosts = ["localhost", "127.0.0.1"]
    make_authority(home)
    make_authority(other, name="somebody else's CA")
    issue(home, "node", kind="node", hosts=hosts)
    issue(home, "app")
    issue(home, "rogue")
    issue(home, "middle", kind="node", hosts=hosts)
    issue(home, "elsewhere", kind="node", hosts=["node.example.org"])
    issue(home, "old-app", not_before=now - timedelta(days=9), days=7)
    issue(home, "early-app", not_before=now + timedelta(days=2), days=7)
    issue(home, "old-node", kind="node", hosts=hosts, not_before=now - timedelta(days=9), days=7)
    issue(home, "early-node", kind="node", hosts=hosts, not_before=now + timedelta(days=2), days=7)
    issue(other, "node", kind="node", hosts=hosts)
    issue(other, "app")
    bundle = home / "both.pem"
    bundle.write_bytes((home / "ca.pem").read_bytes() + (other / "ca.pem").read_bytes())
    names = ("node", "app", "rogue", "middle", "elsewhere", "old-app", "early-app", "old-node", "early-node")
    files = {name.replace("-", "_"): TLSFiles.from_dir(home, name) for name in names}
    theirs = TLSFiles.from_dir(other, "app")
    files["stranger"] = TLSFiles(ca=bundle, cert=theirs.cert, key=theirs.key)
    files["foreign_app"] = theirs
    files["foreign_node"] = TLSFiles.from_dir(other, "node")
    return SimpleNamespace(folder=home, **files)


@pytest.fixture(scope="session")
def sealing(tmp_path_factory):
    """A folder with one sealing key, `node`."""
    folder = tmp_path_factory.mktemp("sealing")
    write_key(folder, "node", suite=HYBRID, days=1)
    return folder


@pytest.fixture
def tools():
    return fakes


@pytest.fixture
def node(pki):
    with fakes.Node(pki.node) as running:
        yield running


@pytest.fixture
def cloud(node, pki):
    backend = fakes.backend(node.target, pki.app)
    yield backend
    backend.close()


class _Foreign(HybridLLMServicer):
    """A node of version 2, or one that misbehaves."""

    def __init__(self, behave):
        self.behave = behave

    def Generate(self, request, context):  # noqa: N802
        yield from self.behave(context)

    def Describe(self, request, context):  # noqa: N802
        return pb.NodeDescription(protocol=2)


@pytest.fixture
def foreign(pki):
    """Starts nodes that answer with what a function of the call yields; returns their targets."""
    servers = []

    def start(behave, *, register=True):
        server = grpc.server(ThreadPoolExecutor(2))
        if register:
            add_HybridLLMServicer_to_server(_Foreign(behave), server)
        port = server.add_secure_port("127.0.0.1:0", server_credentials(pki.node))
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0)
