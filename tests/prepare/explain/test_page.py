"""The page is well-formed, loads nothing, and is written for its owner alone; the route stands beside."""

from __future__ import annotations

import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hybrid_llm.cli.main import main
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.explain.explaining import explain
from hybrid_llm.prepare.explain.page import page
from hybrid_llm.prepare.explain.routing import Answered, Routed, Written, route
from hybrid_llm.prepare.explain.step import Explain
from hybrid_llm.prepare.explain.subject import Question
from hybrid_llm.prepare.explain.writing import write
from hybrid_llm.prepare.step import Input, Work
from tests.prepare.explain.conftest import TRIGGER

CONFIG = "version: 1\npolicy: balanced\nbackends:\n  edge: {kind: onnx, model: embedded}\n"
NASTY = f"word1 {TRIGGER} </span><script>alert(1)</script> <img src=http://x.example/>"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Notes every element, and fails where one is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hybrid.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_the_page_is_well_formed_and_loads_nothing(classifier: Path, config: Path) -> None:
    found = explain(classifier, Question(text=NASTY), orders=2)
    written = page(found, route(config, NASTY), NASTY)
    reader = read(written)
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "img", "link", "iframe", "object", "form"}
    attributes = {name for _, attrs in reader.seen for name in attrs}
    assert not attributes & {"src", "href", "onclick", "onload", "srcset"}
    assert not re.search(r"url\(|@import", written)
    policy = next(attrs["content"] for tag, attrs in reader.seen if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    tokens = [attrs for tag, attrs in reader.seen if tag == "span" and str(attrs.get("class")).startswith("t ")]
    assert len(tokens) == 3 * len(found.pieces)
    assert all(attrs["title"] for attrs in tokens)
    drawings = [attrs for tag, attrs in reader.seen if tag == "svg" and attrs.get("role") == "img"]
    assert len(drawings) == 2
    assert all("area" in str(attrs["aria-label"]) for attrs in drawings)


def test_the_route_is_explained_with_rules_exclusions_and_what_the_cloud_would_see(config: Path) -> None:
    routed = route(config, "Write to ann.lee@example.org")
    written = page(None, routed, "")
    read(written)
    assert routed.decision.order == ("edge",)
    assert "rules[6]" in written
    assert "objectives.ttft_ms" in written
    assert routed.seen_by_cloud is not None
    assert "ann.lee" not in routed.seen_by_cloud
    assert "EMAIL_" in written
    assert not routed.answers
    secret = route(config, "The password is hunter2-Xy91!")
    assert secret.seen_by_cloud is None
    assert "may not go to the cloud" in page(None, secret, "")


def test_an_answer_shows_how_sure_each_token_is(config: Path) -> None:
    routed = route(config, "Is this review positive? 'A delight.'", ask=True)
    (answer,) = routed.answers
    assert answer.backend == "edge"
    assert "".join(token.text for token in answer.tokens) == answer.text
    assert all(0 < token.probability <= 1 for token in answer.tokens)
    read(page(None, routed, ""))


def test_of_a_cascade_each_answer_stands_on_the_page(config: Path) -> None:
    routed = route(config, "A delight.", ask=True, labels=("positive", "negative"), threshold=0.5)
    assert [answer.confident for answer in routed.answers][-1] is True
    assert routed.answers[-1].text in ("positive", "negative")
    unsure = Answered(
        backend="edge", text="maybe", score=0.4, confident=False,
        tokens=(Written(text="may", probability=0.3, instead=(("will", 0.25),)), Written(text="be", probability=0.9)),
    )  # fmt: skip
    cascade = Routed(
        decision=routed.decision, replaced={}, seen_by_cloud="x", answers=(unsure, routed.answers[-1])
    )  # fmt: skip
    written = page(None, cascade, "")
    read(written)
    assert "Asked before, and not confident enough: edge" in re.sub("<h2>", "", written)
    assert "<td>may</td><td>0.300</td><td>will 0.25</td>" in written


def test_files_are_for_their_owner_and_are_replaced(classifier: Path, tmp_path: Path) -> None:
    found = explain(classifier, Question(text=f"word1 {TRIGGER}"), methods=["occlusion"], orders=2)
    out = tmp_path / "why"
    for _ in range(2):
        write(out, found, None, "")
    assert sorted(path.name for path in out.iterdir()) == ["explanation.html", "results.json"]
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o600}
    document = json.loads((out / "results.json").read_text())
    assert document["explanation"]["target"] == "yes"
    assert document["route"] is None
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another --out"):
        write(tmp_path / "file" / "why", found, None, "")


def test_the_command_writes_and_logs_only_what_is_asked_for(
    classifier: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = set(tmp_path.rglob("*"))
    text = f"word1 {TRIGGER} word2"
    command = ["models", "explain", str(classifier), text, "--orders", "2", "--config", str(config)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "'yes' with probability" in shown.out
    assert "order: edge" in shown.out
    assert TRIGGER not in shown.err
    assert TRIGGER not in caplog.text
    assert set(tmp_path.rglob("*")) == before
    assert main([*command, "--method", "occlusion", "--json", "--out", str(tmp_path / "why")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [each["method"] for each in document["explanation"]["attributions"]] == ["occlusion"]
    assert (tmp_path / "why" / "explanation.html").is_file()
    assert main(["models", "explain", str(classifier), text, "--ask"]) == 2
    assert main(["models", "explain", str(tmp_path), text]) == 3


def test_the_step_leaves_the_same_page_and_metrics(classifier: Path, tmp_path: Path) -> None:
    step = Explain(model=Input(str(classifier)), text=f"word1 {TRIGGER}", orders=2)
    (tmp_path / "out").mkdir()
    outcome = step.run(Work(out=tmp_path / "out", scratch=tmp_path / "scratch"))
    assert outcome.metrics["probability"] > 0.9
    assert "occlusion_deletion_area" in outcome.metrics
    assert (tmp_path / "out" / "explanation.html").is_file()
