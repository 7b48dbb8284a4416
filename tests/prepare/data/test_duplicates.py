"""Duplicates: exact and near ones go, whatever order they come in, and others stay."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.prepare.data.duplicates import bands_of, words_of
from tests.prepare.data.conftest import Preparer


def sentence(draw: random.Random, words: int) -> list[str]:
    return [f"word{draw.randrange(3000)}" for _ in range(words)]


def jaccard(one: str, other: str, size: int = 3) -> float:
    first, second = (
        {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}
        for words in (words_of(one), words_of(other))
    )
    return len(first & second) / len(first | second)


def test_exact_duplicates_differ_in_case_and_space_only(prepare: Preparer) -> None:
    source = prepare.write("a.txt", "The cat  sat.\nthe cat sat.\nThe dog sat.\n")
    assert len(prepare.records(source, duplicates="exact")) == 2
    assert len(prepare.records(source, duplicates="keep")) == 3


def test_exact_duplicates_may_be_written_with_other_characters_of_unicode(prepare: Preparer) -> None:
    """A ligature, and letters of full width, which cleaning leaves as they are."""
    source = prepare.write("a.txt", "the \ufb01ne \uff23\uff21\uff34 sat\nthe fine cat sat\nthe fine dog sat\n")
    assert len(prepare.records(source, duplicates="exact")) == 2


def test_equal_texts_with_other_labels_are_reported(prepare: Preparer) -> None:
    rows = [{"text": "fine", "label": "good"}, {"text": "fine", "label": "bad"}, {"text": "poor", "label": "bad"}]
    folder = prepare.run(prepare.rows("a.jsonl", rows))
    assert folder.card.figures["duplicates"]["conflicts"] == {"label": 1}
    assert folder.card.splits == {"all": 2}


def planted(draw: random.Random, count: int) -> tuple[list[str], dict[str, str]]:
    """Texts of 60 words, and for each a copy with two to four words changed."""
    texts, copies = [], {}
    for _ in range(count):
        words = sentence(draw, 60)
        texts.append(" ".join(words))
        changed = list(words)
        for at in draw.sample(range(60), draw.randint(1, 4)):
            changed[at] = "altered"
        copies[" ".join(changed)] = texts[-1]
    return texts, copies


def test_planted_near_duplicates_are_found_and_others_stay(prepare: Preparer) -> None:
    """Above the threshold nearly all are found; well below it, nearly none."""
    texts, copies = planted(random.Random(1), 400)
    rows = [{"text": text} for text in [*texts, *copies]]
    kept = {record["text"] for record in prepare.records(prepare.rows("a.jsonl", rows))}
    dropped = {copy: not {copy, text} <= kept for copy, text in copies.items()}
    alike = {copy: jaccard(copy, text) for copy, text in copies.items()}
    above = [dropped[copy] for copy, value in alike.items() if value >= 0.85]
    below = [dropped[copy] for copy, value in alike.items() if value < 0.7]
    assert len(above) >= 50
    assert len(below) >= 30
    assert sum(above) / len(above) >= 0.9
    assert sum(below) / len(below) <= 0.1
    assert all(text in kept or any(copies[copy] == text for copy in copies if copy in kept) for text in texts)


@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 2))
@settings(max_examples=10)
def test_which_duplicates_stay_does_not_depend_on_the_order(order: random.Random, seed: int) -> None:
    texts, copies = planted(random.Random(2), 20)
    every = [*texts, *copies, *texts[:5], *(text.upper() for text in texts[:5])]
    shuffled = list(every)
    order.shuffle(shuffled)
    results = []
    for some in (every, shuffled):
        with TemporaryDirectory() as root:
            prepare = Preparer(Path(root))
            results.append(prepare.records(prepare.rows("a.jsonl", [{"text": text} for text in some]), seed=seed))
    assert results[0] == results[1]


@given(rows=st.lists(st.sampled_from(["a b c d", "A b c d", "e f g h", "e f g  h", "x"]), min_size=1, max_size=20))
@settings(max_examples=20)
def test_no_dropped_record_appears(rows: list[str]) -> None:
    with TemporaryDirectory() as root:
        prepare = Preparer(Path(root))
        folder = prepare.run(prepare.rows("a.jsonl", [{"text": text} for text in rows]), min_chars=1)
        records = list(folder.records("all"))
    read = folder.card.figures["duplicates"]
    assert read["in"] - sum(read["dropped"].values()) == len(records)
    assert len({" ".join(record["text"].casefold().split()) for record in records}) == len(records)


@pytest.mark.parametrize(("threshold", "bands"), [(0.5, 64), (0.7, 32), (0.8, 16), (0.9, 16), (1.0, 8)])
def test_the_bands_follow_the_threshold(threshold: float, bands: int) -> None:
    assert bands_of(threshold) == bands


def overlap(prepare: Preparer, training: list[dict[str, Any]], held: list[dict[str, Any]], **options: Any) -> Any:
    source, other = prepare.rows("a.jsonl", training), prepare.rows("held.jsonl", held)
    return prepare.run(source, evaluation=other, **options)


def test_an_overlap_may_reach_over_two_messages(prepare: Preparer) -> None:
    """Neither of the two has as many words as an overlap, and both together do."""
    messages = [{"role": role, "content": f"{role} has eight words to say here now"} for role in ("user", "assistant")]
    other = [{"role": "user", "content": "something else"}, {"role": "assistant", "content": "yes"}]
    folder = overlap(prepare, [{"messages": messages}, {"messages": other}], [{"messages": messages}])
    assert folder.card.figures["evaluation"]["overlaps"] == {"records": 1}


def test_the_split_train_of_an_evaluation_set_is_not_evaluated_on(prepare: Preparer) -> None:
    texts = [f"{' '.join(sentence(random.Random(number), 30))} end" for number in range(12)]
    source = prepare.rows("a.jsonl", [{"text": text} for text in texts])
    folder = prepare.run(source, splits={"train": 0.5, "test": 0.5})
    held = folder.path.rename(prepare.root / "held")
    figures = prepare.run(source, evaluation=held).card.figures["evaluation"]
    assert figures["items"] == figures["overlaps"]["records"] == folder.card.splits["test"]


def test_overlap_with_the_evaluation_is_reported_or_dropped(prepare: Preparer) -> None:
    draw = random.Random(3)
    held = [sentence(draw, 40) for _ in range(5)]
    training = [sentence(draw, 40) for _ in range(20)]
    training[3][10:23] = held[0][5:18]  # 13 words in a row
    training[4][10:22] = held[1][5:17]  # 12
    training[5] = ["Yes"]
    rows = [{"text": " ".join(words)} for words in training]
    items = [{"text": " ".join(words)} for words in [*held, ["yes"]]]
    figures = overlap(prepare, rows, items).card.figures["evaluation"]
    assert (figures["overlaps"], figures["items"], figures["items_met"]) == ({"records": 2}, 6, 2)
    folder = overlap(prepare, rows, items, contaminated="drop")
    assert folder.card.figures["evaluation"]["dropped"] == {"overlap": 2}
    assert {rows[3]["text"], "Yes"}.isdisjoint(record["text"] for record in folder.records("all"))
    assert folder.card.splits == {"all": 18}
