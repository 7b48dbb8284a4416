"""Calibrated scores say how often they are right, on texts that they were not fitted to."""

from __future__ import annotations

import json
import math
import random

import pytest

from hybrid_llm import tasks
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.core.taskform import text_of
from tests.tasks.conftest import Writer
from tests.tasks.tokens import answer_tokens

LABELS = ["good", "bad"]


def boaster(favour: float = 0.0):
    """Right in 75 of 100 texts, surer than that, and with a liking for `good`; its answer is a hash of the text."""

    def write(request):
        number = int(text_of(request).split()[1])
        rng = random.Random(number)
        right = LABELS[number % 2] if rng.random() < 0.75 else LABELS[1 - number % 2]
        sure = rng.uniform(2.0, 5.0) * (1 if right == "good" else -1) + favour
        good = 1 / (1 + math.exp(-sure))
        shares = {"good": good, "bad": 1 - good}
        return answer_tokens(max(shares, key=shares.__getitem__), shares, {})

    return write


EXAMPLES = [(f"text {i}", LABELS[i % 2]) for i in range(200)]


def test_scores_that_boast_become_honest(make):
    llm = make(Writer("edge", Location.EDGE, boaster()))
    scaling = tasks.calibrate(EXAMPLES, LABELS, llm=llm).backends["edge"]
    assert scaling.examples == 200
    assert scaling.temperature > 1.5
    assert scaling.ece_before > 0.15
    assert scaling.ece_after < 0.08
    assert scaling.accuracy_after == pytest.approx(0.75, abs=0.06)


def test_a_liking_for_a_label_is_taken_out_and_brings_accuracy(make):
    llm = make(Writer("edge", Location.EDGE, boaster(favour=4.0)))
    scaling = tasks.calibrate(EXAMPLES, LABELS, llm=llm).backends["edge"]
    assert scaling.accuracy_after > scaling.accuracy_before + 0.05
    assert scaling.bias["good"] < scaling.bias["bad"]
    plain = tasks.calibrate(EXAMPLES, LABELS, bias=False, llm=llm).backends["edge"]
    assert plain.bias == {"good": 0.0, "bad": 0.0}
    assert plain.accuracy_after == plain.accuracy_before


def test_a_calibration_is_stored_used_and_belongs_to_its_labels(make, tmp_path):
    llm = make(Writer("edge", Location.EDGE, boaster()))
    made = tasks.calibrate(EXAMPLES, LABELS, llm=llm)
    made.save(tmp_path / "calibration.json")
    read = tasks.Calibration.load(tmp_path / "calibration.json")
    assert read == made
    before, after = (tasks.classify("text 4", LABELS, calibration=each, llm=llm).score for each in (None, read))
    assert after < before
    with pytest.raises(InvalidRequest, match="other labels"):
        tasks.classify("text 4", ["good", "awful"], calibration=read, llm=make(Writer("edge", Location.EDGE, other)))
    cloud = make(Writer("cloud", Location.CLOUD, boaster()))
    assert tasks.classify("text 4", LABELS, calibration=read, llm=cloud).score == before


def other(_):
    return answer_tokens("good", {"good": 0.6, "awful": 0.4}, {})


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "backends": {"a": {}}}', '{"version": 1, "backends": 3}']
)
def test_a_file_that_is_no_calibration_is_refused(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no calibration"):
        tasks.Calibration.load(path)
    with pytest.raises(ConfigError, match="is no calibration"):
        tasks.Calibration.load(tmp_path / "none.json")


def test_examples_come_from_lines_of_json(tmp_path):
    path = tmp_path / "examples.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in EXAMPLES[:3]))
    assert tasks.read_examples(path) == EXAMPLES[:3]
    path.write_text('{"text": "a", "label": "b"}\n{"text": 1}\n')
    with pytest.raises(ConfigError, match=":2: expected"):
        tasks.read_examples(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        tasks.read_examples(tmp_path / "none")


def test_too_few_examples_or_foreign_labels_are_refused():
    with pytest.raises(InvalidRequest, match="there are 3; at least 20"):
        tasks.calibrate(EXAMPLES[:3], LABELS)
    with pytest.raises(InvalidRequest, match="1 have a label"):
        tasks.calibrate([*EXAMPLES, ("text", "awful")], LABELS)
