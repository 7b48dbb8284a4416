"""Presidio as a detector: with a fake of its one method, and with the real one if it is installed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.privacy.detectors.presidio import PresidioDetector, open_analyzer


@dataclass
class Result:
    entity_type: str
    start: int
    end: int
    score: float = 0.9


class FakeAnalyzer:
    """Finds the words Jane and Rome, and records its arguments."""

    def __init__(self) -> None:
        self.asked = []

    def analyze(self, text, language, entities=None, score_threshold=None):
        self.asked.append((language, entities, score_threshold))
        known = {"PERSON": "Jane", "LOCATION": "Rome"}
        found = [Result(entity, text.find(word), text.find(word) + len(word)) for entity, word in known.items()]
        return [r for r in reversed(found) if r.start >= 0 and (entities is None or r.entity_type in entities)]


def reported(detector, text):
    return [(finding.kind, text[finding.start : finding.end]) for finding in detector.find(text)]


def test_findings_come_in_order_under_the_kinds_that_were_asked_for():
    analyzer = FakeAnalyzer()
    detector = PresidioDetector(analyzer, kinds={"PERSON": "person_name"}, language="de", min_score=0.7)
    assert reported(detector, "Rome saw Jane") == [("person_name", "Jane")]
    assert analyzer.asked == [("de", ["PERSON"], 0.7)]
    assert reported(PresidioDetector(analyzer), "Rome saw Jane") == [("location", "Rome"), ("person", "Jane")]


def test_it_reports_whether_it_finds_names_of_people():
    assert PresidioDetector(FakeAnalyzer()).finds_names
    assert PresidioDetector(FakeAnalyzer(), kinds={"PERSON": "person_name"}).finds_names
    assert not PresidioDetector(FakeAnalyzer(), kinds={"LOCATION": "place"}).finds_names


@pytest.mark.skipif(find_spec("presidio_analyzer") is not None, reason="Presidio is installed")
def test_without_presidio_the_error_says_what_to_install():
    with pytest.raises(ConfigError, match=r"pip install 'hybrid-llm\[presidio\]'"):
        open_analyzer("en_core_web_sm")
    assert "presidio_analyzer" not in sys.modules


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A real spaCy pipeline, small: one rule that takes Jane for a person."""
    pytest.importorskip("presidio_analyzer", reason="Presidio is not installed: pip install 'hybrid-llm[presidio]'")
    import spacy

    pipeline = spacy.blank("en")
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Jane"}])
    folder = tmp_path_factory.mktemp("spacy") / "model"
    pipeline.to_disk(folder)
    return folder


def test_the_real_presidio_finds_names_and_forms(model):
    kinds = {"PERSON": "person_name", "EMAIL_ADDRESS": "email"}
    detector = PresidioDetector(open_analyzer(str(model)), kinds=kinds)
    text = "write to Jane at jane@example.com"
    assert reported(detector, text) == [("person_name", "Jane"), ("email", "jane@example.com")]


def test_the_real_presidio_never_fetches_a_model(model):
    with pytest.raises(ConfigError, match="'no_such_model' is neither installed nor a folder"):
        open_analyzer("no_such_model")
