"""Recorded decisions: what is written reads back and decides alike, and a failing disk affects no request."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import BackendUnavailable, ConfigError, NoEligibleBackend
from hybrid_llm.core.request import Location, Message, Request, RequestMetadata, Tool
from hybrid_llm.core.signals import BackendState, Breaker, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.lab.recordings import read_recordings
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import load_config, parse_config
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.observability.recorder import Decided, DecisionRecorder, Outcome, Recording, dump
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

NUMBERS = st.floats(allow_nan=False)
SHARE = st.none() | NUMBERS
NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
STATES = st.builds(
    BackendState,
    name=NAMES,
    location=st.sampled_from(Location),
    ready=st.booleans(),
    breaker=st.sampled_from(Breaker),
    queue=st.integers(-(2**40), 2**40),
    load=NUMBERS,
    rtt_ms=SHARE,
    predicted_ttft_ms=NUMBERS,
)
SIGNALS = st.builds(
    Signals,
    device=st.builds(DeviceSignals, cpu_load=NUMBERS, battery=SHARE, charging=st.none() | st.booleans()),
    network=st.builds(NetworkSignals, online=st.booleans(), metered=st.none() | st.booleans()),
    budget=st.builds(BudgetSignals, spent=NUMBERS, left=SHARE),
    backends=st.lists(STATES, max_size=3).map(lambda states: {state.name: state for state in states}),
)
REQUESTS = st.builds(
    Request,
    messages=st.lists(st.just(Message(role="user", content="MARKER")), min_size=1, max_size=3).map(tuple),
    task=NAMES,
    privacy=st.frozensets(NAMES, max_size=3),
    max_tokens=st.integers(1, 10**6),
    deadline=st.floats(0.001, 1e5),
    created=st.just(0.0),
    output_schema=st.none() | st.just('{"title": "MARKER"}'),
    tools=st.just(()) | st.just((Tool(name="MARKER"),)),
    tenant=st.none() | NAMES,
    request_id=NAMES,
    prompt_tokens=st.integers(0, 10**9),
)
RECORDINGS = st.builds(
    Recording,
    at=st.floats(0, 4e9).map(lambda at: round(at, 3)),
    metadata=REQUESTS.map(RequestMetadata.of),
    signals=SIGNALS,
    order=st.lists(NAMES, max_size=3).map(tuple),
    decided=st.builds(Decided, policy=NAMES, digest=NAMES, rule=NAMES),
    outcome=st.builds(Outcome, backend=NAMES, error=NAMES, completion_tokens=st.integers(0, 10**6), ttft_ms=NUMBERS),
)


@settings(deadline=None)
@given(recording=RECORDINGS)
def test_what_is_written_reads_back_the_same_and_holds_no_text(recording, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "one.jsonl"
    path.write_text(dump(recording) + "\n", encoding="utf-8")
    (back,) = read_recordings(path)
    assert replace(back, position="") == replace(recording, metadata=back.metadata)
    assert back.metadata == replace(recording.metadata, created=back.metadata.created)
    assert back.position == f"{path}:1"
    assert "MARKER" not in path.read_text("utf-8")


def test_a_reading_that_is_not_a_number_survives(tmp_path):
    signals = Signals(device=DeviceSignals(cpu_load=math.nan, temperature_c=math.inf))
    path = tmp_path / "one.jsonl"
    path.write_text(dump(Recording(at=0.0, metadata=metadata(), signals=signals)) + "\n")
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (back,) = read_recordings(path)
    assert math.isnan(back.signals.device.cpu_load)
    assert back.signals.device.temperature_c == math.inf


def metadata(**changes) -> RequestMetadata:
    request = Request(messages=(Message(role="user", content="MARKER"),), request_id="r-1", **changes)
    return RequestMetadata.of(request)


def line(**changes) -> str:
    whole = json.loads(dump(Recording(at=1.0, metadata=metadata(), signals=Signals())))
    whole |= changes
    return json.dumps({key: value for key, value in whole.items() if value is not ...}) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json\n", "this is not a line of JSON"),
        (line()[:40], "its end is missing"),
        ("[1]\n", "`the line` is not an object"),
        (line(v=2), "recordings of version 1, not 2"),
        (line(at="noon"), "`at` is not a number"),
        (line(signal={}), "did you mean `signals`?"),
        (line(signals=...), "`signals` is missing"),
        (line(signals={"devise": {}}), "did you mean `device`?"),
        (line(signals={"device": {"batery": 1}}), "did you mean `battery`?"),
        (line(signals={"device": {"battery": "full"}}), "`signals.device.battery` is not a number"),
        (line(signals={"device": {"charging": 1}}), "`signals.device.charging` is not true or false"),
        (line(signals={"backends": {}}), "signals.backends is not a list"),
        (line(signals={"backends": [{"name": "a"}]}), "`signals.backends[0].location` is missing"),
        (line(signals={"backends": [{"name": "a", "location": "moon"}]}), "one of edge, cloud"),
        (line(request={"tags": "phi"}), "`request.tags` is not a list of texts"),
        (line(request={"prompt_tokens": 1.5}), "`request.prompt_tokens` is not a whole number"),
        (line(request={"messages": -1}), "are counts"),
        (line(request={"prompt": "text"}), "request has no field `prompt`"),
        (line(decision={"order": [1]}), "`decision.order` is not a list of texts"),
    ],
)
def test_a_malformed_line_is_reported_with_its_number(tmp_path, text, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(line() + text)
    with pytest.raises(ConfigError) as caught:
        list(read_recordings(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_recordings(tmp_path / "absent"))
    (tmp_path / "bytes").write_bytes(b"\xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        list(read_recordings(tmp_path / "bytes"))


def event(**changes) -> RequestEvent:
    decision = Decision(order=("edge",), excluded={}, policy="p", digest="d", rule="rules[0]")
    return RequestEvent(metadata=metadata(), signals=Signals(), decision=decision, **changes)


def test_a_client_records_every_request_even_without_an_eligible_backend(tmp_path):
    path = tmp_path / "decisions.jsonl"
    edge = FakeBackend("edge", Location.EDGE, ["MARKER-ANSWER"], [BackendUnavailable("down", backend="edge")])
    policy = builtin_policy("balanced", {"edge": Location.EDGE})
    recorder = DecisionRecorder(path)
    began = time.time()
    with HybridLLM([edge], policy, sensors=FixedSensors(), hooks=[recorder]) as llm:
        llm.generate("MARKER", privacy={"phi"}, tenant="ward-7", request_id="one")
        edge.ready = False
        with pytest.raises(NoEligibleBackend):
            llm.generate("MARKER", request_id="two")
    one, two = read_recordings(path)
    assert (one.metadata.request_id, one.metadata.tenant, one.metadata.privacy) == ("one", "ward-7", {"phi"})
    assert (one.order, one.outcome.backend, one.decided.digest) == (("edge",), "edge", policy.digest)
    assert one.outcome.completion_tokens > 0
    assert began - 0.1 <= one.at <= time.time()
    assert (two.order, two.outcome.error) == ((), "NoEligibleBackend")
    assert policy.decide(one.metadata, one.signals).order == one.order
    assert "MARKER" not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_files_are_rotated_and_bounded(tmp_path):
    path = tmp_path / "d.jsonl"
    recorder = DecisionRecorder(path, max_bytes=2000, keep=2)
    for _ in range(40):
        recorder(event())
    recorder.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["d.jsonl", "d.jsonl.1", "d.jsonl.2"]
    assert all(0 < file.stat().st_size <= 2000 for file in files)
    assert all(list(read_recordings(file)) for file in files)
    again = DecisionRecorder(path, max_bytes=10**6)
    again(event())
    again.close()
    assert len(list(read_recordings(path))) >= 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_drops_lines_and_harms_no_request(tmp_path, caplog):
    path = tmp_path / "full.jsonl"
    path.symlink_to("/dev/full")
    recorder = DecisionRecorder(path)
    edge = FakeBackend("edge", Location.EDGE)
    policy = builtin_policy("balanced", {"edge": Location.EDGE})
    with HybridLLM([edge], policy, sensors=FixedSensors(), hooks=[recorder]) as llm:
        assert [llm.generate("MARKER").text for _ in range(3)] == ["ok"] * 3
    assert recorder.dropped == 3
    assert len(caplog.records) == 1
    assert "MARKER" not in caplog.text


def test_a_partly_written_line_is_removed(tmp_path):
    import resource
    import signal

    path = tmp_path / "d.jsonl"
    size = len(dump(Recording(at=0.0, metadata=metadata(), signals=Signals()))) + 1
    child = os.fork()
    if child == 0:  # a limit on the size of files is the nearest thing to a disk that fills up
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * 2, size * 2))
        recorder = DecisionRecorder(path)
        for _ in range(5):
            recorder(event())
        recorder.close()
        os._exit(min(recorder.dropped, 100))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) >= 2
    assert len(list(read_recordings(path))) == 5 - os.waitstatus_to_exitcode(status)


def test_limits_and_folder_are_checked_at_the_start(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        DecisionRecorder(tmp_path / "no" / "d.jsonl")
    for wrong in ({"max_bytes": 0}, {"keep": -1}):
        with pytest.raises(ConfigError, match="at least"):
            DecisionRecorder(tmp_path / "d.jsonl", **wrong)


def test_the_configuration_turns_it_on(tmp_path):
    path = tmp_path / "hybrid.yaml"
    head = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
    path.write_text(head + "record: {path: d.jsonl, max_mb: 1, keep: 3}\n")
    config = load_config(path)
    assert (config.record.path, config.record.max_mb, config.record.keep) == (tmp_path / "d.jsonl", 1, 3)
    with HybridLLM.from_config(path) as llm:
        llm.generate("What is 12 + 30?", max_tokens=4)
    assert len(list(read_recordings(tmp_path / "d.jsonl"))) == 1
    for wrong in ("record: {pth: d.jsonl}", "record: {path: d.jsonl, max_mb: 0}", "record: {max_mb: 1}"):
        with pytest.raises(ConfigError, match=r"pth|max_mb|path"):
            parse_config(f"{head}{wrong}\n", path)
