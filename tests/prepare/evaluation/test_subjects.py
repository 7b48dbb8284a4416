"""What is evaluated: folders, backends and policies, all under the guard."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.policies import Objectives
from hybrid_llm.prepare.evaluation.evaluating import evaluate
from hybrid_llm.prepare.evaluation.results import read_results
from hybrid_llm.prepare.evaluation.step import Evaluate
from hybrid_llm.prepare.evaluation.subjects.opening import open_subject, parse_subject
from hybrid_llm.prepare.evaluation.subjects.subject import Unsupported
from hybrid_llm.prepare.evaluation.suite import read_suite
from hybrid_llm.prepare.step import Input, Work


@pytest.fixture
def suite(tmp_path):
    def make(tasks, data, head=""):
        (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in data))
        path = tmp_path / "suite.yaml"
        path.write_text(f"version: 1\nname: small\n{head}tasks:\n{tasks}")
        return read_suite(path)

    return make


def run(suite, tmp_path, *subjects, **options):
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return evaluate(suite, [parse_subject(one) for one in subjects], out, tmp_path / "scratch", **options)


@pytest.mark.parametrize(
    ("text", "name", "path", "backend", "threshold"),
    [
        ("models/mine", "mine", "models/mine", "", None),
        ("store/smollm2/model", "smollm2", "store/smollm2/model", "", None),
        ("old=models/mine", "old", "models/mine", "", None),
        ("hybrid.yaml", "policy", "hybrid.yaml", "", None),
        ("a/hybrid.yaml:edge", "edge", "a/hybrid.yaml", "edge", None),
        ("b=hybrid.yml:edge", "b", "hybrid.yml", "edge", None),
        ("hybrid.yaml@0.8", "cascade", "hybrid.yaml", "", 0.8),
    ],
)
def test_subjects_as_they_are_written(text, name, path, backend, threshold):
    named = parse_subject(text)
    assert (named.name, str(named.path), named.backend, named.threshold) == (name, path, backend, threshold)


@pytest.mark.parametrize("text", ["", "hybrid.yaml@0", "hybrid.yaml@1.5"])
def test_a_subject_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"hybrid\.yaml"):
        parse_subject(text)


def test_a_missing_folder_backend_and_name_are_errors(tmp_path, suite):
    with pytest.raises(ConfigError, match="does not exist"):
        open_subject(parse_subject(str(tmp_path / "gone")))
    with pytest.raises(ConfigError, match=r"neither manifest.json nor config.json"):
        open_subject(parse_subject(str(tmp_path)))
    path = tmp_path / "hybrid.yaml"
    path.write_text("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n")
    with pytest.raises(ConfigError, match="no backend `cloud`; it has: edge"):
        open_subject(parse_subject(f"{path}:cloud"))
    small = suite("  one: {kind: classify, data: d.jsonl}\n", [{"text": "a", "label": "b"}])
    with pytest.raises(ConfigError, match="2 subjects have the name `policy`"):
        run(small, tmp_path, str(path), str(path))
    asked: list[str] = []
    with pytest.raises(ConfigError, match="gone does not exist"):
        run(small, tmp_path, str(path), str(tmp_path / "gone"), report=lambda what, share: asked.append(what))
    assert asked == []  # the first subject may take hours


def test_both_forms_of_a_decoder_answer_alike(decoders, suite, tmp_path):
    tasks = (
        "  text: {kind: generate, data: d.jsonl, prompt: '{q}', max_tokens: 6, metrics: [chrf]}\n"
        "  json: {kind: generate, data: d.jsonl, prompt: '{q}', max_tokens: 40, metrics: [json_valid],"
        " schema: s.json, constrain: true}\n"
        "  label: {kind: classify, data: d.jsonl, text: q, label: l, labels: [east, west]}\n"
        "  choice: {kind: choose, data: d.jsonl, prompt: '{q}'}\n"
        "  words: {kind: perplexity, data: d.jsonl, text: q}\n"
    )
    data = [
        {"q": f"The sun rises in the {n}", "reference": "x", "l": "east", "choices": ["a", "b c"], "answer": "a"}
        for n in range(3)
    ]
    (tmp_path / "s.json").write_text('{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}')
    found = run(suite(tasks, data), tmp_path, f"edge={decoders / 'fp32'}", f"node={decoders / 'hf'}", keep_answers=True)
    for task in found.tasks.values():
        edge, node = task.scores["edge"], task.scores["node"]
        assert not edge.errors
        assert edge.routes.keys() | node.routes.keys() <= {"edge", "node"}, "each by the name of its subject"
        assert not node.errors
        for metric, figure in edge.metrics.items():
            assert figure.value == pytest.approx(node.metrics[metric].value, rel=1e-3, abs=1e-3)
    assert found.tasks["text"].scores["edge"].latency is not None
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    texts = {name: [a["text"] for a in answers if a["subject"] == name] for name in ("edge", "node")}
    assert texts["edge"] == texts["node"]
    assert read_results(tmp_path / "out" / "results.json").tasks == found.tasks


def test_both_forms_of_a_classifier(classifiers, suite, tmp_path):
    data = [{"text": "the rain and wind", "label": "weather"}, {"text": "a bread with soup", "label": "food"}] * 4
    small = suite("  topic: {kind: classify, data: d.jsonl, labels: [weather, food]}\n", data)
    found = run(small, tmp_path, f"a={classifiers / 'hf'}", f"b={classifiers / 'onnx'}")
    scores = found.tasks["topic"].scores
    assert scores["a"].metrics["accuracy"] == scores["b"].metrics["accuracy"]
    assert scores["a"].metrics["accuracy"].value == 1.0
    assert not (tmp_path / "out" / "answers.jsonl").exists()
    subject = open_subject(parse_subject(str(classifiers / "hf")))
    for call in (lambda: subject.generate([], {}), subject.scorer, lambda: subject.classify("a", ["x", "y"], {})):
        with pytest.raises(Unsupported):
            call()
    subject.close()


def test_a_private_suite_reaches_no_cloud_backend(decoders, suite, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as cloud:
        cloud.settimeout(0.2)
        port = cloud.getsockname()[1]
        path = tmp_path / "hybrid.yaml"
        path.write_text(
            "version: 1\npolicy: latency-first\nbackends:\n"
            f"  edge: {{kind: onnx, model: {decoders / 'fp32'}}}\n"
            f"  cloud: {{kind: openai, base_url: 'https://127.0.0.1:{port}/v1', model: m}}\n"
        )
        data = [{"q": "Hello", "reference": "x"}] * 2
        task = "  one: {kind: generate, data: d.jsonl, prompt: '{q}', max_tokens: 2, metrics: [chrf]}\n"
        found = run(suite(task, data, "privacy: [phi]\n"), tmp_path, str(path), f"{path}:cloud")
        with pytest.raises(TimeoutError):
            cloud.accept()
    scores = found.tasks["one"].scores
    assert scores["policy"].routes == {"edge": 2}
    assert scores["policy"].cloud == 0
    assert scores["cloud"].errors == {"NoEligibleBackend": 2}


def test_only_the_folder_or_one_backend_has_probabilities(decoders, suite, tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text(f"version: 1\nbackends:\n  edge: {{kind: onnx, model: {decoders / 'fp32'}}}\n")
    small = suite("  one: {kind: perplexity, data: d.jsonl}\n", [{"text": "Some words are here."}])
    scores = run(small, tmp_path, str(path), f"{path}:edge").tasks["one"].scores
    assert "decoder's folder" in scores["policy"].skipped
    assert scores["edge"].metrics["perplexity"].value > 1


def test_what_was_measured_is_what_a_policy_reads(decoders, suite, tmp_path):
    data = [{"q": "Hello", "reference": "x", "label": "a"}] * 4
    tasks = (
        "  words: {kind: generate, data: d.jsonl, prompt: '{q}', task: answer, max_tokens: 4, metrics: [chrf]}\n"
        "  label: {kind: classify, data: d.jsonl, text: q, labels: [a, b]}\n"
    )
    found = run(suite(tasks, data), tmp_path, f"mine={decoders / 'fp32'}")
    path = tmp_path / "hybrid.yaml"
    path.write_text(
        f"version: 1\nquality: out/results.json\nbackends:\n  edge: {{kind: onnx, model: {decoders / 'fp32'}}}\n"
    )
    with HybridLLM.from_config(path) as llm:
        qualities = {
            name: llm._pipeline.fleet.snapshot(RequestMetadata(task=name), Objectives()).backends["edge"].quality
            for name in ("answer", "classify", "chat")
        }
    scores = {name: task.scores["mine"].metrics for name, task in found.tasks.items()}
    assert qualities["answer"] == pytest.approx(scores["words"]["chrf"].value / 100)
    assert qualities["classify"] == scores["label"]["accuracy"].value
    assert qualities["chat"] is None


@pytest.mark.parametrize("name", ["device", "network", "request", "objectives", "has", "1-x.y"])
def test_a_model_may_have_a_name_that_a_backend_may_not(classifiers, decoders, name):
    for folder in (classifiers / "onnx", decoders / "hf"):
        subject = open_subject(parse_subject(f"{name}={folder}"))
        assert (subject.name, subject.about.backend, list(subject.about.digests)) == (name, name, [name])
        subject.close()


def test_steps_paths_and_backends_of_one_name_are_kept_apart_in_a_report(classifiers, suite, tmp_path):
    for folder in ("device", "b/device", "policy"):
        shutil.copytree(classifiers / "onnx", tmp_path / folder)
    config = tmp_path / "hybrid.yaml"
    config.write_text("version: 1\nbackends: {edge: {kind: encoder, model: ./device}}\n")
    data = [{"text": "the rain and wind", "label": "weather"}, {"text": "a bread with soup", "label": "food"}]
    suite("  topic: {kind: classify, data: d.jsonl, labels: [weather, food]}\n", data)
    models = tuple(Input(str(tmp_path / folder)) for folder in ("device", "b/device", "policy", "device"))
    step = Evaluate(suite=tmp_path / "suite.yaml", models=models, config=config, backends=("edge",), policy=True)
    (tmp_path / "out").mkdir()
    step.run(Work(out=tmp_path / "out", scratch=tmp_path / "scratch"))
    found = read_results(tmp_path / "out" / "results.json").subjects
    longer = f"{tmp_path.name}-device"
    assert list(found) == ["device", "b-device", "policy", longer, "edge", "policy-of-config"]
