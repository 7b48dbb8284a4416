"""A cold start measures briefly, stores the result for this model and device, and survives any file on disk."""

from __future__ import annotations

import json
import logging
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.edge import EdgeConfig
from hybrid_llm.backends.grpc import GrpcSpec
from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.core.errors import BackendUnavailable, ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import identity_of, parse_config
from hybrid_llm.router.signals.calibrate import TEXT, calibrate, calibrate_missing, clear_under
from hybrid_llm.router.signals.predictor import PRIORS, FitState, LatencyPredictor, Learned
from hybrid_llm.router.signals.store import Identity, PredictionStore, device_of, state_folder
from tests.fakes import FakeBackend

ME = Identity(kind="onnx", model="abc", device="some processor, 2 cores, onnxruntime 1")
LEARNED = Learned(
    ttft=FitState(weights=(5.0, 20.0, 3.0, 40.0), scale=0.1, count=30),
    tpot=FitState(weights=(2.0, 0.0, 0.0, 0.0), scale=0.1, count=30),
)
POLICY = parse_policy("version: 1\nname: p\ntags: {}\n")


class Timed(FakeBackend):
    """First token after 2 ms and 0.1 ms per prompt token, 3 ms for each further one, on a clock of its own."""

    now = 0.0

    def stream(self, cleared):
        for index, chunk in enumerate(super().stream(cleared)):
            self.now += 0.003 if index else 0.002 + 0.0001 * cleared.request.prompt_tokens
            yield chunk


@pytest.fixture
def timed():
    return Timed("edge", Location.EDGE, ["a", "b", "c"])


def predicted(learned: Learned, tokens: int) -> float:
    predictor = LatencyPredictor(PRIORS[Location.EDGE])
    predictor.resume(learned)
    return predictor.ttft_ms(tokens, BackendState(name="edge", location=Location.EDGE))


def test_a_calibration_finds_the_line_and_sends_the_words_of_the_fixed_text_alone(timed):
    learned = calibrate(timed, clear_under(POLICY), lambda: timed.now)
    for tokens in (40, 300):
        assert predicted(learned, tokens) == pytest.approx(2.0 + 0.1 * tokens, rel=0.05)
    texts = {message.content for request in timed.requests for message in request.messages}
    assert all(set(text.split()) == set(TEXT.split()) for text in texts)
    assert len(texts) == len(timed.requests), "a backend that keeps what it has read has not read any of them"
    assert len(timed.requests) == 10


def test_only_lengths_that_fit_the_context_are_tried(timed):
    timed.capabilities = type(timed.capabilities)(model="tiny", context_window=60)
    calibrate(timed, clear_under(POLICY))
    assert len({request.prompt_tokens for request in timed.requests}) == 1


def test_what_is_missing_is_measured_once_and_only_on_the_device(timed, tmp_path):
    store = PredictionStore(tmp_path, {"edge": ME, "cloud": ME}, writable=True)
    cloud = FakeBackend("cloud", Location.CLOUD)
    for _ in range(2):
        calibrate_missing([timed, cloud], store, POLICY, frozenset({"edge", "cloud"}))
    assert len(timed.requests) == 10
    assert cloud.requests == []


def test_a_device_that_does_not_answer_is_left_as_it_is(tmp_path, caplog):
    broken = FakeBackend("edge", Location.EDGE, [BackendUnavailable("no model", backend="edge")])
    store = PredictionStore(tmp_path, {"edge": ME}, writable=True)
    calibrate_missing([broken], store, POLICY, frozenset({"edge"}))
    assert "could not be calibrated: BackendUnavailable" in caplog.text
    assert not store.load("edge")


def test_stored_predictions_load_for_the_same_model_and_device_only(tmp_path):
    PredictionStore(tmp_path, {"edge": ME}).save("edge", LEARNED)
    assert PredictionStore(tmp_path, {"phone": ME}).load("phone") == LEARNED
    for other in (
        Identity(kind="grpc", model=ME.model, device=ME.device),
        Identity(kind=ME.kind, model="abd", device=ME.device),
        Identity(kind=ME.kind, model=ME.model, device="another"),
    ):
        assert PredictionStore(tmp_path, {"edge": other}).load("edge") is None
    assert PredictionStore(tmp_path, {}).load("edge") is None
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@given(st.binary(max_size=300) | st.recursive(st.none() | st.floats() | st.text(max_size=5), st.lists).map(json.dumps))
def test_a_corrupt_file_is_one_warning_and_never_an_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("state")
    (folder / ME.file_name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert PredictionStore(folder, {"edge": ME}).load("edge") is None


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"format": "something"},
        {"model": "xyz"},
        {"ttft": {"weights": [1, 2, 3], "scale": 0.1, "count": 1}},
        {"ttft": {"weights": [1, 2, 3, -4], "scale": 0.1, "count": 1}},
        {"tpot": {"weights": [1, 2, 3, 1e300], "scale": 0.1, "count": 1}},
        {"tpot": {"weights": [1, 2, 3, True], "scale": 0.1, "count": 1}},
    ],
)
def test_a_file_of_another_version_or_with_impossible_numbers_is_not_used(tmp_path, caplog, change):
    store = PredictionStore(tmp_path, {"edge": ME})
    path = store.save("edge", LEARNED)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with caplog.at_level(logging.WARNING):
        assert store.load("edge") is None
    assert len(caplog.records) == 1
    assert "predictions begin without it" in caplog.text


def test_a_folder_that_cannot_be_written_is_one_warning_and_never_an_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert PredictionStore(tmp_path / "file", {"edge": ME}).save("edge", LEARNED) is None
    assert "predictions are not stored" in caplog.text


def test_a_client_starts_from_stored_predictions_and_stores_what_it_learnt(make_client, edge, tmp_path):
    PredictionStore(tmp_path, {"edge": ME}).save("edge", LEARNED)
    client = make_client(edge, predictions=PredictionStore(tmp_path, {"edge": ME}, writable=True))
    state = client.signals().backends["edge"]
    assert (state.predicted_ttft_ms, state.predicted_tpot_ms, state.predictions) == (5.0, 2.0, 0)
    for _ in range(12):
        client.generate("hello")
    client.close()
    kept = PredictionStore(tmp_path, {"edge": ME}).load("edge")
    assert kept.ttft.count == 42
    assert predicted(kept, 10) < 5.0


def test_a_client_that_only_reads_or_has_seen_little_writes_nothing(make_client, edge, tmp_path):
    for writable, answers in ((False, 12), (True, 3)):
        client = make_client(edge, predictions=PredictionStore(tmp_path, {"edge": ME}, writable=writable))
        for _ in range(answers):
            client.generate("hello")
        client.close()
    assert list(tmp_path.iterdir()) == []


def test_an_identity_names_no_host_address_or_person(tmp_path):
    edge = identity_of(EdgeConfig(name="edge"))
    assert (edge.kind, len(edge.model)) == ("onnx", 64)
    assert edge != identity_of(EdgeConfig(name="edge", threads=1))
    assert edge == identity_of(EdgeConfig(name="other"))
    files = TLSFiles(ca=tmp_path, cert=tmp_path, key=tmp_path)
    node = identity_of(GrpcSpec(name="cloud", targets=("secret-host.example:7443",), tls=files))
    assert "secret-host" not in repr(node)
    assert node != identity_of(GrpcSpec(name="cloud", targets=("other.example:7443",), tls=files))
    assert "cores" in device_of()
    assert "onnxruntime" in device_of()


def test_a_model_folder_that_cannot_be_read_has_no_identity(tmp_path):
    assert identity_of(EdgeConfig(name="edge", model=tmp_path / "none")) is None


def test_an_eager_device_is_measured_at_the_first_start_and_begins_warm_at_the_next(tmp_path):
    config = tmp_path / "hybrid.yaml"
    config.write_text(
        "version: 1\nbackends: {edge: {kind: onnx, load: eager}}\nprediction: {calibrate: auto, folder: state}\n"
    )
    with HybridLLM.from_config(config) as llm:
        first = llm.signals().backends["edge"].predicted_ttft_ms
    assert first != PRIORS[Location.EDGE].ttft_ms[0], "it is measured, not the guess"
    (path,) = (tmp_path / "state").iterdir()
    before = path.stat().st_mtime_ns
    with HybridLLM.from_config(config) as llm:
        assert llm.signals().backends["edge"].predicted_ttft_ms == first
    assert path.stat().st_mtime_ns == before, "one start is measured, not every one"


def test_the_configuration_is_read_strictly(tmp_path):
    text = "version: 1\nbackends: {edge: {kind: onnx}}\nprediction: {calibrate: always}\n"
    with pytest.raises(ConfigError, match=r"hybrid\.yaml:3:\d+"):
        parse_config(text, tmp_path / "hybrid.yaml")
    config = parse_config(text.replace("always", "auto, folder: here"), tmp_path / "hybrid.yaml")
    assert (config.prediction.calibrate, config.prediction.folder) == (True, tmp_path / "here")
    assert parse_config("version: 1\nbackends: {edge: {kind: onnx}}\n", tmp_path / "h").prediction.calibrate is False


def test_the_state_folder_follows_xdg():
    assert state_folder().name == "hybrid-llm"
