"""Accuracy, F1 and calibration are scikit-learn's, and classifiers of both forms are evaluated alike."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.evaluation.classifiers import classification, open_classifier
from hybrid_llm.prepare.evaluation.metrics.labels import calibration_error, confusion, reliability
from tests.encoders import _about

LABELS = ("a", "b", "c")


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from((*LABELS, "other"))), min_size=1, max_size=30))
def test_they_are_those_of_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    gold, predicted = zip(*pairs, strict=True)
    found = confusion(gold, predicted, LABELS)
    options = {"labels": list(LABELS), "zero_division": 0.0}
    assert found.accuracy == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert found.f1_macro == pytest.approx(metrics.f1_score(gold, predicted, average="macro", **options))
    assert found.f1_micro == pytest.approx(metrics.f1_score(gold, predicted, average="micro", **options))
    theirs = metrics.confusion_matrix(gold, predicted, labels=[*LABELS, "other"])
    assert [list(row) for row in found.counts] == theirs[:3].tolist()


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), min_size=1, max_size=200))
def test_the_calibration_error_is_that_of_its_definition(pairs):
    confidences, right = (np.array(each) for each in zip(*pairs, strict=True))
    edges, expected = np.linspace(0, 1, 11), 0.0
    for low, high in pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidences[inside].mean())
    bins = reliability(confidences.tolist(), right.tolist())
    assert sum(each.count for each in bins) == len(pairs)
    on_edge = np.isclose(confidences * 10, np.round(confidences * 10)).any()
    assert on_edge or calibration_error(bins) == pytest.approx(expected, abs=1e-9)


def test_reliability_is_that_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    rng = random.Random(3)
    scores = [rng.random() for _ in range(500)]
    right = [rng.random() < score**1.5 for score in scores]
    true, predicted = calibration.calibration_curve(right, scores, n_bins=10)
    bins = reliability(scores, right)
    assert [each.accuracy for each in bins] == pytest.approx(true.tolist())
    assert [each.confidence for each in bins] == pytest.approx(predicted.tolist())


def test_both_forms_of_a_classifier_are_evaluated_alike(classifiers):
    rng = random.Random(1)
    items = [_about(rng) for _ in range(40)]
    texts = [" ".join(words) for words, _ in items]
    names = open_classifier(classifiers / "hf").labels
    gold = [names[label] for _, label in items]
    theirs, ours = (classification(classifiers / form, texts, gold) for form in ("hf", "onnx"))
    assert theirs == ours
    assert theirs.accuracy > 0.9
    flipped = [names[1 - label] for _, label in items]
    assert classification(classifiers / "hf", texts, flipped).accuracy == pytest.approx(1 - theirs.accuracy)


def test_a_label_that_the_model_does_not_know_and_a_decoder_are_errors(classifiers, decoders, tmp_path):
    with pytest.raises(ConfigError, match=r"1 labels of the data are none of the model, which knows: Weather, Food"):
        classification(classifiers / "hf", ["rain"], ["Sports"])
    with pytest.raises(ConfigError, match="neither"):
        open_classifier(tmp_path)
