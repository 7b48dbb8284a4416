"""Explanations add up, find what the model needs better than chance, and say what they cannot explain."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.prepare.explain.explaining import explain
from hybrid_llm.prepare.explain.memory import rows_for
from hybrid_llm.prepare.explain.methods import integrated_gradients
from hybrid_llm.prepare.explain.page import added_up
from hybrid_llm.prepare.explain.results import Convergence, Explanation
from hybrid_llm.prepare.explain.subject import Question, open_subject
from hybrid_llm.prepare.hub_folder import NotEnoughMemory
from tests.prepare.explain.conftest import TRIGGER, WORDS


def planted(seed: int) -> str:
    draw = random.Random(seed)
    words = draw.choices(WORDS, k=12)
    words[draw.randrange(12)] = TRIGGER
    return " ".join(words)


def by_word(found: Explanation, method: str) -> dict[str, float]:
    scores = next(each.scores for each in found.attributions if each.method == method)
    return {piece.text.strip(): score for piece, score in zip(found.pieces, scores, strict=True)}


@pytest.mark.parametrize("seed", range(3))
def test_the_planted_trigger_is_found_and_beats_random_orders(classifier: Path, seed: int) -> None:
    found = explain(classifier, Question(text=planted(seed)), orders=20, seed=seed)
    assert (found.target, found.kind) == ("yes", "classifier of texts")
    assert found.probability > 0.95
    for each in found.attributions:
        if each.method != "attention roll-out":  # which does not know the label
            words = by_word(found, each.method)
            assert max(words, key=words.__getitem__) == TRIGGER
            assert each.faithfulness.deletion.area < found.random.deletion.area
            assert each.faithfulness.insertion.area > found.random.insertion.area
            assert each.faithfulness.beats_deletion >= 0.8
    assert {each.method for each in found.attributions} == {
        "integrated gradients", "occlusion", "attention roll-out",
    }  # fmt: skip


def test_of_the_other_label_the_trigger_speaks_against_it(classifier: Path) -> None:
    found = explain(classifier, Question(text=planted(1), label="no"), methods=["occlusion"], orders=2)
    words = by_word(found, "occlusion")
    assert min(words, key=words.__getitem__) == TRIGGER
    assert words[TRIGGER] < 0


@pytest.mark.parametrize("which", ["classifier", "decoder"])
def test_integrated_gradients_are_complete(which: str, request: pytest.FixtureRequest) -> None:
    """The scores add up to f(x) - f(baseline), but for a delta; steps are doubled until it is small."""
    folder: Path = request.getfixturevalue(which)
    text = planted(4) if which == "classifier" else "What is 12 + 30?"
    subject = open_subject(folder, Question(text=text, chat=which == "decoder"))
    gap = float((subject.log_probability(subject.ids) - subject.log_probability(subject.neutral)).detach())
    scores = integrated_gradients(subject, 64)
    held = scores.convergence
    assert held is not None
    assert held.whole == pytest.approx(gap, abs=1e-4)
    assert sum(scores.pieces) - gap == pytest.approx(held.delta, abs=1e-3)
    assert held.converged
    assert abs(held.delta) <= 0.02 * abs(gap)


def test_scores_that_do_not_add_up_are_called_so() -> None:
    held = Convergence(steps=1024, whole=6.7, delta=-2.5, converged=False)
    assert "do not add up: they miss -2.500 of +6.700 after 1024 steps" in added_up(held)
    assert "add up, but for" in added_up(replace(held, converged=True))


def test_roll_out_is_a_share_of_the_attention(decoder: Path) -> None:
    found = explain(decoder, Question(text="Is this review positive?"), methods=["attention roll-out"], orders=2)
    scores = found.attributions[0].scores
    assert all(score >= 0 for score in scores)
    assert sum(scores) == pytest.approx(1.0, abs=1e-4)  # a plain text has no tokens but its own


def test_a_given_continuation_is_explained_as_a_whole(decoder: Path) -> None:
    found = explain(
        decoder, Question(text="What is 12 + 30?", continuation="42", chat=True), methods=["occlusion"], orders=3
    )
    assert found.target == "42"
    assert 0 < found.probability <= 1
    assert "".join(piece.gap + piece.text for piece in found.pieces) == "What is 12 + 30?"


def test_curves_begin_and_end_at_the_text_and_the_neutral_input(classifier: Path) -> None:
    found = explain(classifier, Question(text=planted(5)), methods=["occlusion"], orders=2)
    held = found.attributions[0].faithfulness
    assert held.deletion.values[0] == pytest.approx(found.probability, abs=1e-5)
    assert held.deletion.values[-1] == pytest.approx(found.neutral, abs=1e-5)
    assert held.insertion.values[0] == pytest.approx(found.neutral, abs=1e-5)
    assert held.insertion.values[-1] == pytest.approx(found.probability, abs=1e-5)
    assert (held.deletion.shares[0], held.deletion.shares[-1]) == (0.0, 1.0)


def test_the_same_seed_gives_the_same_figures(classifier: Path) -> None:
    once, again = (explain(classifier, Question(text=planted(6)), orders=4, seed=9) for _ in range(2))
    assert json.dumps(once.to_dict()) == json.dumps(again.to_dict())
    assert math.isfinite(once.random.deletion_spread)


def test_no_text_shows_in_a_repr(classifier: Path) -> None:
    found = explain(classifier, Question(text=planted(7)), methods=["occlusion"], orders=2)
    assert TRIGGER not in repr(found)
    assert TRIGGER not in repr(Question(text=TRIGGER, continuation=TRIGGER))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question(text="  "), "the text is empty"),
        (Question(text="word1 " * 60), "the model reads 40: shorten it"),
        (Question(text="word1", label="maybe"), "no label 'maybe'; it has: no, yes"),
        (Question(text="word1", continuation="x"), "a classifier has labels"),
        (Question(text="word1", chat=True), "no chat template"),
    ],
)
def test_what_cannot_be_explained_is_an_error(classifier: Path, question: Question, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        explain(classifier, question)


def test_a_text_that_takes_more_memory_than_is_free_is_an_error(tmp_path: Path) -> None:
    """A decoder of 135 M weights, with 9 heads in 30 layers, holds 17 GB for 2,000 tokens and their gradients."""
    shape = SimpleNamespace(num_attention_heads=9, num_hidden_layers=30, hidden_size=576, vocab_size=49152)
    assert rows_for(100, shape, 16 << 30, tmp_path) == 16
    assert rows_for(1000, shape, 16 << 30, tmp_path) < 16
    with pytest.raises(NotEnoughMemory, match=r"2,000 tokens takes .* GB of memory, and 8\.6 GB are free: shorten"):
        rows_for(2000, shape, 8 << 30, tmp_path)


def test_a_decoder_has_no_labels_and_a_folder_must_be_a_model(decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="a decoder has no labels"):
        explain(decoder, Question(text="Hello", label="yes"))
    with pytest.raises(ConfigError, match="no model folder"):
        explain(tmp_path, Question(text="Hello"))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"converted for the device; .* give its Hugging Face folder"):
        explain(tmp_path, Question(text="Hello"))
