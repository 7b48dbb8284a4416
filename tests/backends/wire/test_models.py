"""A backend that names a model reaches that adapter of a node, or gets an error: never the answer of another model."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import urllib.request
from pathlib import Path

import pytest

from hybrid_llm.backends.audit.keys import make_audit_key
from hybrid_llm.backends.audit.log import AuditLogs
from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.audit.verify import entries
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.core.errors import PermissionDenied, RequestRejected
from hybrid_llm.policies.rights import RightsFile
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.router.client import HybridLLM

ADAPTERS = ("support", "sales")
EXAMPLE = Path(__file__).parents[3] / "examples" / "adapters"


@pytest.fixture
def engine(tools):
    return tools.FakeEngine(adapters=ADAPTERS)


@pytest.fixture
def serving(pki, tools, engine):
    """Starts a node with adapters."""
    with contextlib.ExitStack() as stack:
        yield lambda **config: stack.enter_context(tools.Node(pki.node, engine, **config))


@pytest.fixture
def client(pki, tools):
    with contextlib.ExitStack() as stack:

        def open_client(node, **config):
            return stack.enter_context(contextlib.closing(tools.backend(node.target, pki.app, **config)))

        yield open_client


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(("model", "adapter"), [("", ""), ("fake-model", ""), ("sales", "sales")])
def test_a_request_is_answered_by_what_the_backend_names(serving, client, engine, tools, model, adapter, is_async):
    cloud, cleared = client(serving(), model=model), tools.cleared("hi")
    chunks = asyncio.run(tools.collect(cloud.astream(cleared))) if is_async else list(cloud.stream(cleared))
    assert tools.answer(chunks) == "hello from the node"
    assert engine.seen[-1].adapter == adapter
    assert cloud.capabilities.parent == ("fake-model" if adapter else ""), "known from the first answer on"


def test_the_name_is_sealed_with_the_request(serving, client, engine, tools, sealing):
    node = serving(sealed=sealing, only_sealed=True)
    cloud = client(node, model="sales", sealed=SealedSpec(keys=sealing / "node.seal.pub"))
    assert tools.answer(cloud.stream(tools.cleared("hi"))) == "hello from the node"
    assert engine.seen[-1].adapter == "sales"


@pytest.mark.parametrize("model", ["marketing", "Sales", "sales ", "a" * 200])
def test_a_model_that_a_node_does_not_have_is_an_error(serving, client, engine, tools, model):
    with pytest.raises(RequestRejected, match=r"no such model or adapter|model: at most") as caught:
        list(client(serving(), model=model).stream(tools.cleared("hi")))
    assert caught.value.reason in ("unsupported", "invalid_argument")
    assert engine.seen == []


def older(_context):
    """A node from before the field: it ignores the name, and answers with its own model."""
    yield pb.GenerateChunk(text="as another model", tokens=1)
    yield pb.GenerateChunk(finish_reason=pb.FINISH_REASON_STOP)


def test_the_answer_of_a_node_that_ignores_the_name_is_refused_at_its_first_chunk(foreign, pki, tools):
    with (
        contextlib.closing(tools.backend(foreign(older), pki.app, model="sales")) as cloud,
        pytest.raises(RequestRejected, match="does not choose among models: its software is older"),
    ):
        list(cloud.stream(tools.cleared("hi")))


def test_a_description_lists_the_adapters_and_a_probe_knows_the_parent(serving, client):
    cloud = client(serving(), model="sales")
    description = cloud.probe()
    assert (description.model, description.adapters) == ("fake-model", ADAPTERS)
    assert (cloud.capabilities.model, cloud.capabilities.parent) == ("sales", "fake-model")


def test_rights_name_adapters_as_models_and_what_is_not_allowed_is_not_shown(serving, client, engine, tools, tmp_path):
    rights = tmp_path / "rights.yaml"
    rights.write_text(
        "version: 1\nrights: [{name: app, who: '*', models: [support, other], use: [generate, describe]}]\n"
    )
    node = serving(rights=RightsFile(rights))
    assert tools.answer(client(node, model="support").stream(tools.cleared("hi"))) == "hello from the node"
    for model in ("", "sales", "marketing"):
        with pytest.raises(PermissionDenied, match="no right to use this model"):
            list(client(node, model=model).stream(tools.cleared("hi")))
    with pytest.raises(RequestRejected, match="no such model or adapter"):
        list(client(node, model="other").stream(tools.cleared("hi")))
    assert [request.adapter for request in engine.seen] == ["support"]
    assert client(node).probe().adapters == ("support",)


def test_audit_and_metrics_name_the_adapter(serving, client, engine, tools, tmp_path):
    make_audit_key(tmp_path / "audit.key")
    spec = AuditSpec(file=tmp_path / "audit.db", key=tmp_path / "audit.key", name="node-1", required=True)
    node = serving(audit=spec, metrics="127.0.0.1:0")
    port = next(each._server.port for each in node.server._observers._reporters if hasattr(each, "_server"))
    engine.delay = 0.02
    stream = client(node, model="sales").stream(tools.cleared("hi"))
    next(stream)
    running = _scrape(port)
    assert 'vllm:lora_requests_info{max_lora="2",model_name="fake-model",running_lora_adapters="sales"' in running
    list(stream)
    tools.eventually(lambda: 'vllm:generation_tokens_total{model_name="sales"}' in _scrape(port))
    assert 'running_lora_adapters="",waiting_lora_adapters=""' in _scrape(port)
    with pytest.raises(RequestRejected):
        list(client(node, model="marketing").stream(tools.cleared("hi")))
    assert "marketing" not in _scrape(port), "a label holds nothing that a client has written"
    logs = AuditLogs(spec.file)
    models = [entry.model for _, entry in entries(logs, spec.name)]
    logs.close()
    assert models[:2] == ["sales", "sales"]
    assert "marketing" not in models


def test_the_example_reaches_the_adapter_of_each_task(serving, engine, pki, tmp_path):
    folder = tmp_path / "adapters"
    shutil.copytree(EXAMPLE, folder)
    (folder / "tls").mkdir()
    for name, path in (("ca.pem", pki.app.ca), ("app.pem", pki.app.cert), ("app.key", pki.app.key)):
        shutil.copy(path, folder / "tls" / name)
    config = folder / "hybrid.yaml"
    config.write_text(config.read_text().replace("7443", str(serving().port)))
    with HybridLLM.from_config(config) as llm:
        replies = [llm.generate("hi", task=task) for task in ("support", "sales", "chat")]
    assert [reply.backend for reply in replies] == ["support", "sales", "base"]
    assert [request.adapter for request in engine.seen] == ["support", "sales", ""]


def _scrape(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()
