"""The probabilities of labels come out of the tokens of an answer, however these cut the labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.router.tasks.scores import chosen_log, label_logs, mean_logs, shares
from tests.tasks.tokens import answer_tokens

LABELS = st.lists(st.text('abcé "\\', min_size=1, max_size=6), min_size=2, max_size=6, unique=True)


@st.composite
def models(draw):
    labels = draw(LABELS)
    weights = [draw(st.integers(1, 100)) for _ in labels]
    cuts = draw(st.lists(st.integers(1, 8), max_size=4))  # one tokenizer: the same text is cut in the same way
    total = sum(weights)
    known = {label: weight / total for label, weight in zip(labels, weights, strict=True)}
    return known, dict.fromkeys(labels, cuts), draw(st.sampled_from(labels))


@given(models())
def test_every_probability_is_found_or_bounded_from_above(model):
    """Where two labels share a piece beside the answer, nothing tells them apart: together they are right."""
    known, cuts, chosen = model
    logs, bounded = label_logs(answer_tokens(chosen, known, cuts), list(known), chosen)
    assert math.isclose(math.exp(logs[chosen]), known[chosen], rel_tol=1e-9)
    assert not bounded
    assert math.isclose(sum(map(math.exp, logs.values())), 1.0, rel_tol=1e-9)


def test_labels_with_pieces_of_their_own_get_exactly_their_share():
    known = {"sports": 0.5, "science": 0.3, "spam": 0.15, "a": 0.05}
    logs, bounded = label_logs(
        answer_tokens("science", known, {each: [1, 3] for each in known}), list(known), "science"
    )
    assert not bounded
    assert {label: round(share, 9) for label, share in shares(logs).items()} == pytest.approx(known, abs=0.2)
    logs, _ = label_logs(answer_tokens("science", known, {}), list(known), "science")
    assert shares(logs) == pytest.approx(known)
    assert list(shares(logs)) == ["sports", "science", "spam", "a"]


def test_a_label_beyond_the_alternatives_is_bounded_from_above():
    known = {"a": 0.6, "b": 0.3, "c": 0.06, "d": 0.04}
    logs, bounded = label_logs(answer_tokens("a", known, {}, most=2), list(known), "a")
    assert bounded == ["c", "d"]
    assert math.exp(logs["c"]) == pytest.approx(0.3)  # the least of the alternatives
    assert shares(logs)["a"] <= known["a"] / sum(known.values())


def test_how_a_label_ends_is_no_reason_against_it():
    """A model that would write `spam,` and not end the text there has chosen `spam` all the same."""
    opening, first, *rest = answer_tokens("spam", {"spam": 0.8, "ham": 0.2}, {"spam": [2], "ham": [2]})
    tokens = (opening, first, *(replace(each, logprob=-9.0) for each in rest))
    logs, _ = label_logs(tokens, ["spam", "ham"], "spam")
    assert shares(logs) == pytest.approx({"spam": 0.8, "ham": 0.2})
    assert chosen_log(tokens, "spam", ["spam", "ham"]) == pytest.approx(math.log(0.8))


def test_the_answer_need_not_be_the_likeliest():
    known = {"a": 0.1, "b": 0.9}
    logs, _ = label_logs(answer_tokens("a", known, {}), list(known), "a")
    assert next(iter(shares(logs))) == "b"


def test_tokens_that_show_no_label_give_nothing():
    assert label_logs((), ["a", "b"], "a") == ({}, [])
    (first, *_) = answer_tokens("a", {"a": 0.5, "b": 0.5}, {})
    assert label_logs((first,), ["a", "b"], "a") == ({}, [])


def test_tokens_without_alternatives_say_nothing_about_the_other_labels():
    opening, label = answer_tokens("a", {"a": 0.7, "b": 0.3}, {})
    assert label_logs((opening, replace(label, top=())), ["a", "b"], "a") == ({}, [])


def test_a_piece_may_reach_from_before_the_label_into_it():
    opening, label = answer_tokens("a", {"a": 0.7, "b": 0.3}, {})
    merged = replace(
        label, bytes=b'"' + label.bytes, top=tuple(replace(each, bytes=b'"' + each.bytes) for each in label.top)
    )
    tokens = (replace(opening, bytes=opening.bytes[:-1]), merged)
    logs, _ = label_logs(tokens, ["a", "b"], "a")
    assert shares(logs) == pytest.approx({"a": 0.7, "b": 0.3})
    assert chosen_log(tokens, "a", ["a", "b"]) == pytest.approx(math.log(0.7))


def test_the_pieces_of_a_text_count_by_their_weight():
    logs = mean_logs([(3.0, {"a": math.log(0.8), "b": math.log(0.2)}), (1.0, {"a": math.log(2.0), "b": math.log(8.0)})])
    assert logs["a"] == pytest.approx(0.75 * math.log(0.8) + 0.25 * math.log(0.2))
