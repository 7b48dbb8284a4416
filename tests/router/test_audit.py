"""An app's audit log: a record before each request is answered, and one when it is over; refused where it must be."""

from __future__ import annotations

import asyncio

import pytest

from hybrid_llm.backends.audit.keys import AuditKey, make_audit_key
from hybrid_llm.backends.audit.log import AuditLogs
from hybrid_llm.backends.audit.spec import AuditSpec
from hybrid_llm.backends.audit.verify import entries, verify
from hybrid_llm.core.errors import AuditUnavailable, NoEligibleBackend
from hybrid_llm.core.request import Location
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import load_config, parse_config
from hybrid_llm.router.observability.audit import AuditHook
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend


@pytest.fixture
def spec(tmp_path):
    make_audit_key(tmp_path / "audit.key")
    return AuditSpec(file=tmp_path / "audit.db", key=tmp_path / "audit.key", required=True)


def recorded(spec):
    logs = AuditLogs(spec.file)
    try:
        assert verify(logs, "app", [AuditKey.load(spec.key).public]).findings == ()
        return [entry for _, entry in entries(logs, "app")]
    finally:
        logs.close()


def run(spec, ask, *backends):
    hook = AuditHook(spec.open())
    backends = backends or (FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD))
    try:
        with HybridLLM(list(backends), builtin_policy("balanced"), sensors=FixedSensors(), hooks=[hook]) as llm:
            return ask(llm, hook)
    finally:
        hook.close()


def test_a_request_is_recorded_before_it_is_answered_and_after(spec):
    run(spec, lambda llm, _: llm.generate("SECRET", privacy=["phi"], tenant="acme", request_id="r-1"))
    began, ended = recorded(spec)
    assert (began.event, began.request_id, began.tenant, began.tags) == ("begin", "r-1", "acme", ("phi",))
    assert (ended.event, ended.call, ended.backend, ended.outcome) == ("end", "r-1", "edge", "ok")
    assert began.decision == ended.decision
    assert len(began.decision.split()[0]) == 16
    assert b"SECRET" not in b"".join(path.read_bytes() for path in spec.file.parent.glob("audit.db*"))


def test_async_and_streamed_requests_are_recorded_too(spec):
    async def ask(llm):
        await asyncio.gather(*(llm.agenerate("hello") for _ in range(5)))
        async with llm.astream("hello") as stream:
            async for _ in stream:
                pass

    run(spec, lambda llm, _: asyncio.run(ask(llm)))
    assert sorted(entry.event for entry in recorded(spec)) == ["begin"] * 6 + ["end"] * 6


def test_a_decision_alone_is_not_recorded(spec):
    run(spec, lambda llm, _: llm.decide("hello"))
    assert recorded(spec) == []


def test_a_request_that_cannot_be_recorded_is_not_answered_and_nothing_is_called(spec):
    edge = FakeBackend("edge", Location.EDGE)

    def ask(llm, hook):
        llm.generate("hello")
        calls = len(edge.requests)
        hook._writer._log._database._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(AuditUnavailable):  # noqa: PT012  # which record is the first too many is SQLite's business
            for _ in range(50):
                llm.generate("hello", tenant="t" * 100)
        called = len(edge.requests) - calls
        hook._writer._log._database._db.execute("PRAGMA max_page_count = 100000")
        llm.generate("hello", request_id="again")
        return called

    assert run(spec, ask, edge) < 50
    assert recorded(spec)[-1].request_id == "again"


def test_a_request_that_nothing_may_answer_is_recorded(spec):
    with pytest.raises(NoEligibleBackend):
        run(spec, lambda llm, _: llm.generate("hello", privacy=["phi"]), FakeBackend("cloud", Location.CLOUD))
    assert [entry.outcome for entry in recorded(spec)] == ["", "NoEligibleBackend"]


def test_a_database_of_several_apps_is_named_by_its_url(tmp_path):
    url = "postgresql://audit@db/audit"
    text = f"version: 1\nbackends: {{edge: {{kind: onnx}}}}\naudit: {{file: '{url}', key: audit.key}}\n"
    assert parse_config(text, tmp_path / "hybrid.yaml").audit.file == url


def test_the_file_of_a_configuration_opens_it(spec, tmp_path):
    text = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\naudit: {file: audit.db, key: audit.key}\n"
    (tmp_path / "hybrid.yaml").write_text(text)
    config = load_config(tmp_path / "hybrid.yaml")
    assert (config.audit.file, config.audit.required) == (tmp_path / "audit.db", False)
    with HybridLLM.from_config(tmp_path / "hybrid.yaml") as llm:
        llm.generate("hello", max_tokens=2)
    assert [entry.outcome for entry in recorded(spec)] == ["", "ok"]
