"""Metrics are equal to the field's reference implementations on fixed inputs."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.prepare.evaluation.metrics.bootstrap import Resamples, mcnemar
from hybrid_llm.prepare.evaluation.metrics.metric import METRICS, Setting
from hybrid_llm.prepare.evaluation.metrics.text import exact_match, json_equal, json_valid, normalised, token_f1
from tests.prepare.evaluation.fakes import answered, items

HYPOTHESES = ["The cat sat on the mat.", "It rains in Oslo today", "", "Two of the three houses are red."]
REFERENCES = ["The cat sat on a mat.", "It is raining in Oslo today.", "Nothing.", "Two of three houses were red."]


def figure(name, hypotheses=HYPOTHESES, references=REFERENCES, setting=None):
    metric = METRICS.get(name)
    numbers = metric.numbers(items(*references), [answered(text) for text in hypotheses], setting or Setting())
    return metric.figure(numbers.sum(axis=0))


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_corpus_metrics_are_those_of_the_command_of_sacrebleu(name, tmp_path):
    pytest.importorskip("sacrebleu")
    (tmp_path / "hyp").write_text("\n".join(HYPOTHESES) + "\n")
    (tmp_path / "ref").write_text("\n".join(REFERENCES) + "\n")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", name, "-w", "6", "--score-only"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert figure(name) == pytest.approx(float(done.stdout), abs=1e-6)


def test_several_references_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    others = ["A cat sat on the mat.", "Rain in Oslo", "Nothing at all.", "Red are two of three houses."]
    expected = sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES, others]).score
    assert figure("bleu", references=list(zip(REFERENCES, others, strict=True))) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougel"])
def test_rouge_is_that_of_rouge_score(name):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = {"rougel": "rougeL"}.get(name, name)
    reference = scorer.RougeScorer([theirs], use_stemmer=True)
    expected = np.mean([reference.score(r, h)[theirs].fmeasure for r, h in zip(REFERENCES, HYPOTHESES, strict=True)])
    assert figure(name) == pytest.approx(expected)


def test_exact_match_and_f1_are_those_of_squads_script():
    assert normalised("The  cat, an animal!") == "cat animal"
    assert exact_match("the Eiffel Tower.", ["Eiffel tower", "La Tour"]) == 1.0
    assert exact_match("a tower", ["Eiffel tower"]) == 0.0
    assert token_f1("the tall Eiffel tower", ["Eiffel tower"]) == pytest.approx(0.8)
    assert token_f1("house", ["Eiffel tower", "the house"]) == 1.0
    assert token_f1("", ["x"]) == 0.0


@pytest.mark.parametrize(
    ("text", "valid"),
    [('{"a": 1}', 1.0), ('{"a": "1"}', 0.0), ('{"a": 1} end', 0.0), ("", 0.0), ("NaN", 0.0), ("[" * 9999, 0.0)],
)
def test_json_is_valid_as_a_whole_and_by_its_schema(text, valid):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert json_valid(text, schema) == valid


def test_json_without_a_schema():
    assert json_valid("[1]", None) == 1.0
    assert json_valid("Infinity", None) == 0.0


@pytest.mark.parametrize(
    ("answer", "equal"),
    [
        ('{"b": [1, 2.5], "a": "x"}', 1.0),
        ('{"a":"x","b":[1.0,2.5]}', 1.0),
        ('{"a": "x", "b": [2.5, 1]}', 0.0),
        ('{"a": "x", "b": [true, 2.5]}', 0.0),
        ('{"a": "x", "b": [1, 2.5]} ok', 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
        ("1e999", 0.0),
    ],
)
def test_json_is_equal_by_value(answer, equal):
    assert json_equal(answer, ['{"a": "x", "b": [1, 2.5]}']) == equal


def test_verbatim_is_every_character_but_outer_white_space():
    assert figure("verbatim", [" a. ", "A.", "a"], ["a.", "a.", "a."]) == pytest.approx(1 / 3)


LABELS = ("a", "b", "c")


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from((*LABELS, "x"))), min_size=1, max_size=20))
def test_f1_of_labels_is_scikit_learns(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    gold, predicted = zip(*pairs, strict=True)
    setting = Setting(labels=LABELS)
    for average in ("macro", "micro"):
        expected = metrics.f1_score(gold, predicted, labels=list(LABELS), average=average, zero_division=0.0)
        assert figure(f"f1_{average}", predicted, gold, setting) == pytest.approx(expected)


def test_the_bootstrap_is_seeded_and_covers_the_figure():
    rng = np.random.default_rng(0)
    numbers = np.stack([(rng.random(200) < 0.7).astype(float), np.ones(200)], axis=1)
    metric = METRICS.get("accuracy")
    one, other = (Resamples(200, 7).estimate(metric, numbers) for _ in range(2))
    assert one == other
    assert one.low < one.value < one.high
    spread = np.sqrt(one.value * (1 - one.value) / 200)  # of the normal approximation
    assert one.high - one.low == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_paired_resamples_see_a_difference_that_single_intervals_hide():
    rng = np.random.default_rng(1)
    first = (rng.random(300) < 0.5).astype(float)
    second = np.where(rng.random(300) < 0.08, 1.0, first)  # better on a few items, worse on none
    rows = [np.stack([each, np.ones(300)], axis=1) for each in (first, second)]
    resamples, metric = Resamples(300, 0), METRICS.get("accuracy")
    alone = [resamples.estimate(metric, each) for each in rows]
    gap = resamples.difference(metric, *rows)
    assert alone[0].high > alone[1].low
    assert gap.low > 0
    assert gap.p < 0.05
    assert resamples.difference(metric, rows[0], rows[0]).p == 1.0


def test_mcnemar_is_the_exact_binomial_test():
    stats = pytest.importorskip("scipy.stats")
    first = np.array([[1, 1]] * 3 + [[0, 1]] * 12 + [[1, 1]] * 9, dtype=float)
    second = np.array([[0, 1]] * 3 + [[1, 1]] * 12 + [[1, 1]] * 9, dtype=float)
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert mcnemar(first, first) == 1.0


def test_every_metric_has_a_direction_and_a_scale():
    for name in METRICS.names():
        metric = METRICS.get(name)
        assert metric.scale in (0.0, 1.0, 100.0)
        assert metric.higher or not metric.scale


def test_a_perfect_answer_has_the_figure_of_the_scale():
    for name in ("bleu", "chrf", "rouge1", "rouge2", "rougel", "exact_match", "token_f1", "verbatim"):
        assert figure(name, REFERENCES[:2], REFERENCES[:2]) == pytest.approx(METRICS.get(name).scale)
    assert figure("json_valid", [json.dumps([1])], ["-"]) == METRICS.get("json_valid").scale
