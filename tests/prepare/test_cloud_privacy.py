"""What `distil` and `evaluate` ask of a cloud: a recording server, values that must stay, and errors that echo."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.prepare.compression.distilling.answers import Answers, Prompt, TeacherStopped, collect
from hybrid_llm.prepare.compression.distilling.teachers import BackendTeacher
from hybrid_llm.prepare.evaluation.evaluating import ANSWERS_NAME, evaluate
from hybrid_llm.prepare.evaluation.subjects.opening import parse_subject
from hybrid_llm.prepare.evaluation.suite import read_suite
from tests.backends.http.server import Scripted, delta, events, failed, head, scripted

EMAIL, RECORD, KEY = "zoe.quist@planted-mail.org", "83920175", "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
WORD = "xyzzyplugh"
"""Stands in every prompt: no error, log or result may quote it."""
QUESTIONS = [f"{WORD} {what}" for what in (f"mail {EMAIL}", f"patient MRN: {RECORD}", f"my key is {KEY}", "rain")]
POLICY = """version: 1
name: clinic
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
  secret: {allow: [edge], detect: [credential]}
rules: [{prefer: [cloud, edge]}]
resilience: {retries: 0}
"""
Make = Callable[[Any], Sequence[bytes]]


def _last(body: Any) -> str:
    return str(body["messages"][-1]["content"])


def answers(body: Any) -> Sequence[bytes]:
    """Quotes the end of the prompt."""
    return [head(), events(delta(content=f"about {_last(body)[-60:]}"), delta("stop"), "[DONE]")]


def echoes(status: int) -> Make:
    """Fails, and quotes the prompt wherever an error can."""

    def make(body: Any) -> Sequence[bytes]:
        text = _last(body)
        return failed(status, {"error": {"message": text, "type": text, "code": text, "param": text}})

    return make


def breaks(body: Any) -> Sequence[bytes]:
    """Begins an answer, and goes on with what is no event."""
    return [head(), events(delta(content="one ")), f"data: {{{_last(body)}\n\n".encode()]


@pytest.fixture
def cloud() -> Iterator[Scripted]:
    with scripted() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, cloud: Scripted) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    backends = f'{{kind: openai, base_url: "{cloud.url}", model: m, insecure: true}}'
    path = tmp_path / "hybrid.yaml"
    path.write_text(
        f"version: 1\npolicy: policy.yaml\nbackends: {{edge: {{kind: onnx, model: embedded}}, cloud: {backends}}}\n"
    )
    return path


def check_sent(cloud: Scripted) -> None:
    sent = json.dumps([cloud.bodies, cloud.headers, cloud.asked, cloud.asked_headers])
    assert not [value for value in (EMAIL, RECORD, KEY) if value in sent]


@pytest.mark.parametrize(
    "make", [answers, echoes(400), echoes(401), echoes(429), echoes(503), breaks], ids=lambda make: make.__name__
)
def test_a_teacher_is_asked_nothing_that_must_stay_and_its_errors_quote_nothing(
    tmp_path: Path, cloud: Scripted, config: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cloud.make, stored = make, Answers.within(tmp_path / "scratch")
    prompts = [Prompt(turns=(("system", f"{WORD} {EMAIL}"), ("user", each))) for each in QUESTIONS]
    said = ""
    try:
        found = collect(
            prompts, lambda: BackendTeacher(config, "cloud", (), 8), stored, lambda what, share: None, most_tokens=0
        )
    except TeacherStopped as error:
        said = f"{error} {error.__cause__} {error.__cause__!r}"
    else:
        assert [number for number in sorted(found) if found[number].text is None] == [1, 2]
    assert bool(said) is (make is not answers)
    assert cloud.bodies
    check_sent(cloud)
    assert WORD not in said + caplog.text


@pytest.mark.parametrize("make", [answers, echoes(400), breaks], ids=lambda make: make.__name__)
def test_an_evaluation_sends_nothing_that_must_stay_and_its_results_quote_nothing(
    tmp_path: Path, cloud: Scripted, config: Path, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cloud.make = make
    items = [
        {"q": each, "reference": f"{WORD} {EMAIL}", "text": each, "label": "ab"[at % 2]}
        for at, each in enumerate(QUESTIONS)
    ]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(each) + "\n" for each in items))
    (tmp_path / "suite.yaml").write_text(
        "version: 1\nname: s\ntasks:\n"
        "  shown: {kind: generate, data: items.jsonl, prompt: '{q}', shots: 1, max_tokens: 8}\n"
        "  label: {kind: classify, data: items.jsonl}\n"
    )
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    results = evaluate(
        read_suite(tmp_path / "suite.yaml"), [parse_subject(f"{config}:cloud")], out, scratch, keep_answers=True
    )
    assert cloud.bodies
    check_sent(cloud)
    assert results.tasks["shown"].scores["cloud"].errors["NoEligibleBackend"] >= 2
    for path in out.iterdir():
        if path.name == ANSWERS_NAME:
            assert path.stat().st_mode & 0o77 == 0
        else:
            assert not [each for each in (WORD, EMAIL, RECORD, KEY) if each in path.read_text()]
    assert scratch.stat().st_mode & 0o77 == 0
    assert WORD not in caplog.text
