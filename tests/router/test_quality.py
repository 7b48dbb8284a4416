"""Quality by task: figures hold for the model that was evaluated and the task of the request alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.folder import read_manifest
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.config import load_config
from hybrid_llm.router.config.quality import read_evaluated

DIGEST = read_manifest(embedded_model()).digest
POLICY = """\
version: 1
name: by-quality
tags: {public: {allow: [edge, cloud]}}
rules:
  - prefer: [cloud, edge]
    when: has(edge.quality) && edge.quality < 80%
    because: the device is bad at this task
  - prefer: [edge, cloud]
"""


def task(name, figures, *, scale=1.0, items=10, metric="accuracy"):
    scores = {subject: {"metrics": {metric: {"value": value}}} for subject, value in figures.items()}
    return {"request_task": name, "quality": metric, "scale": scale, "items": items, "scores": scores}


def results(*tasks, backend="edge", digest=DIGEST, version=1):
    subjects = {
        "one": {"what": "", "backend": backend, "digests": {backend: digest}, "policy": ""},
        "policy": {"what": "", "backend": "", "digests": {"edge": digest}, "policy": "p"},
    }
    return {"version": version, "subjects": subjects, "tasks": {str(n): one for n, one in enumerate(tasks)}}


@pytest.fixture
def write(tmp_path):
    def make(document):
        (tmp_path / "policy.yaml").write_text(POLICY)
        path = tmp_path / "results.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        config = tmp_path / "hybrid.yaml"
        config.write_text(
            "version: 1\npolicy: policy.yaml\nquality: results.json\nbackends:\n"
            "  edge: {kind: onnx, model: embedded}\n"
            "  cloud: {kind: openai, base_url: 'https://127.0.0.1:9/v1', model: m}\n"
        )
        return config

    return make


def decided(config, task_name):
    with HybridLLM.from_config(config) as llm:
        decision = llm.decide("Hello", task=task_name, privacy={"public"})
        return decision.order[0], dict(decision.trace[0].values)["edge.quality"]


def test_the_figure_of_the_requests_task_decides(write):
    config = write(results(task("classify", {"one": 0.9}), task("answer", {"one": 70.0}, scale=100.0)))
    assert decided(config, "classify") == ("edge", 0.9)
    assert decided(config, "answer") == ("cloud", pytest.approx(0.7))
    assert decided(config, "chat") == ("edge", "absent")


def test_tasks_of_one_name_are_weighed_by_their_items(write):
    config = write(results(task("answer", {"one": 1.0}, items=30), task("answer", {"one": 0.2}, items=10)))
    assert decided(config, "answer")[1] == pytest.approx(0.8)


def test_a_model_that_was_evaluated_under_another_name_is_known_by_its_digest(write):
    assert decided(write(results(task("answer", {"one": 0.5}), backend="mine")), "answer")[1] == 0.5


def test_figures_of_another_model_are_not_used_and_that_is_said(write, caplog):
    config = write(results(task("answer", {"one": 0.1}), digest="0" * 32))
    assert decided(config, "answer") == ("edge", "absent")
    assert "the model of `edge` is not the one that was evaluated" in caplog.text


def test_what_a_policy_made_of_them_is_no_figure_of_a_backend(write):
    config = write(results(task("answer", {"policy": 0.1, "one": 0.9})))
    assert decided(config, "answer") == ("edge", 0.9)


def test_a_task_without_a_figure_or_scale_has_no_quality(write):
    nothing = {**task("text", {"one": 3.0}, metric="bits_per_byte", scale=0.0), "quality": ""}
    skipped = {**task("b", {}), "scores": {"one": {"metrics": {}, "skipped": "cannot"}}}
    null = task("c", {"one": None})
    config = write(results(task("a", {"one": 0.5}), nothing, skipped, null))
    assert [decided(config, name)[1] for name in ("a", "text", "b", "c")] == [0.5, "absent", "absent", "absent"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (results(task("a", {"one": 0.5}), version=2), "has version 2, and this library reads 1"),
        ("{", "no result of `hybrid-llm models evaluate`"),
        ('{"version": 1}', "no result of `hybrid-llm models evaluate`"),
        ("[]", "no result of `hybrid-llm models evaluate`"),
        (results(task("a", {"one": 1.5})), "no result of"),
        (results(task("a", {"one": -0.5})), "no result of"),
        (results(task("a", {"one": 0.5}, items=0)), "no result of"),
        (results(task("a", {"one": 0.5}), backend="other", digest="0" * 32), "none of the backends of this file"),
    ],
)
def test_a_file_that_is_unusable_is_an_error_at_its_line(write, document, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(document))
    assert "hybrid.yaml:3:" in str(caught.value)


def test_a_file_that_is_gone_is_an_error(write, tmp_path):
    config = write(results(task("a", {"one": 0.5})))
    (tmp_path / "results.json").unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(config)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.floats(0, 100)), st.integers(1, 10**6)), max_size=8
    )
)
def test_every_quality_is_from_0_to_1_and_between_its_figures(tmp_path_factory, figures):
    path = tmp_path_factory.mktemp("results") / "results.json"
    path.write_text(
        json.dumps(results(*(task(name, {"one": value}, scale=100.0, items=n) for name, value, n in figures)))
    )
    (found,) = read_evaluated(path)
    for name in "abc":
        shares = [value / 100.0 for known, value, _ in figures if known == name and value is not None]
        assert (name in found.qualities) == bool(shares)
        if shares:
            assert min(shares) - 1e-9 <= found.qualities[name] <= max(shares) + 1e-9
            assert 0.0 <= found.qualities[name] <= 1.0
