"""Splits: a partition that is the same for each order of the input, and that more data does not disturb."""

from __future__ import annotations

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from tests.prepare.data.conftest import Preparer

SHARES = {"train": 0.6, "test": 0.4}
WORDS = st.sampled_from([f"word{number}" for number in range(40)])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=12).map(" ".join), min_size=8, max_size=40)


def split(texts: list[str], **options: Any) -> dict[str, list[str]]:
    """The texts of each split, in their order; an empty split is none here."""
    with TemporaryDirectory() as root:
        prepare = Preparer(Path(root))
        try:
            source = prepare.rows("a.jsonl", [{"text": text} for text in texts])
            folder = prepare.run(source, splits=SHARES, private="keep", **options)  # scanning takes most of the time
        except ConfigError as error:
            assert "is empty" in str(error)
            return {}
        return {name: [record["text"] for record in folder.records(name)] for name in SHARES}


@given(texts=TEXTS, seed=st.integers(0, 3), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_a_split_is_a_partition_whatever_the_order_of_the_input(
    texts: list[str], seed: int, shuffle: random.Random
) -> None:
    once = split(texts, seed=seed)
    again = list(texts)
    shuffle.shuffle(again)
    assert split(again, seed=seed) == once
    kept = [text for part in once.values() for text in part]
    assert len(kept) == len(set(kept))
    assert set(kept) <= set(texts)


@given(texts=TEXTS, more=TEXTS)
@settings(max_examples=20)
def test_more_data_moves_no_record_to_another_split(texts: list[str], more: list[str]) -> None:
    before, after = split(texts, duplicates="exact"), split(texts + more, duplicates="exact")
    if before and after:
        for name, part in before.items():
            assert set(part) <= set(after[name])


@pytest.mark.parametrize("group", ["", "patient"])
def test_another_seed_is_another_split(prepare: Preparer, group: str) -> None:
    source = prepare.rows("a.jsonl", [{"text": f"visit {number} of 40", "patient": number} for number in range(40)])
    held = []
    for seed in range(2):
        folder = prepare.run(source, splits=SHARES, duplicates="exact", seed=seed, group=group)
        held.append({record["text"] for record in folder.records("test")})
    assert held[0] != held[1]


def labelled(count: int, rare: int = 5) -> list[dict[str, Any]]:
    return [
        {"text": f"number {number} of them", "label": "rare" if number % rare == 0 else "common"}
        for number in range(count)
    ]


def counts(prepare: Preparer, **options: Any) -> dict[tuple[str, str], int]:
    source = prepare.rows("a.jsonl", labelled(1000))
    folder = prepare.run(source, duplicates="exact", splits={"train": 0.7, "validation": 0.2, "test": 0.1}, **options)
    found: dict[tuple[str, str], int] = {}
    for name in folder.card.splits:
        for record in folder.records(name):
            found[name, record["label"]] = found.get((name, record["label"]), 0) + 1
    return found


def test_stratified_splits_have_the_share_of_each_label(prepare: Preparer) -> None:
    assert counts(prepare, stratify=True) == {
        ("train", "common"): 560, ("train", "rare"): 140,
        ("validation", "common"): 160, ("validation", "rare"): 40,
        ("test", "common"): 80, ("test", "rare"): 20,
    }  # fmt: skip


def test_balanced_splits_have_as_many_of_each_label(prepare: Preparer) -> None:
    plain, balanced = counts(prepare), counts(prepare, balance=True)
    for name in ("train", "validation", "test"):
        assert balanced[name, "common"] == balanced[name, "rare"] == plain[name, "rare"]
    both = counts(prepare, balance=True, stratify=True)
    assert [both[name, "common"] for name in ("train", "validation", "test")] == [140, 40, 20]


def test_a_group_never_straddles(prepare: Preparer) -> None:
    rows = [{"text": f"visit {number}", "patient": number % 20} for number in range(400)]
    source = prepare.rows("a.jsonl", rows)
    folder = prepare.run(source, group="patient", splits=SHARES, duplicates="exact")
    groups = [{int(record["text"].split()[1]) % 20 for record in folder.records(name)} for name in SHARES]
    assert groups[0] | groups[1] == set(range(20))
    assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": {"train": 0.9}}, "100 % together"),
        ({"splits": {"../out": 1.0}}, "letters and digits"),
        ({"splits": {"train": 0.999999, "test": 1e-6}}, "the split `test` is empty"),
        ({"min_chars": 100}, "is empty: 0 records are left of 3"),
        ({"balance": True}, "need one label"),
        ({"stratify": True, "group": "text"}, "choose one"),
        ({"block_tokens": 16}, "needs both"),
        ({"min_chars": 9, "max_chars": 8}, "above"),
    ],
)
def test_options_that_cannot_be_met_are_errors(prepare: Preparer, options: dict[str, Any], message: str) -> None:
    source = prepare.write("a.txt", "one of these\ntwo of those\nand three others\n")
    with pytest.raises(ConfigError, match=message):
        prepare.run(source, **options)


def test_the_same_options_give_the_same_bytes(prepare: Preparer) -> None:
    source = prepare.rows("a.jsonl", [{"text": f"write to a{number}@example.org"} for number in range(30)])
    before = {path.name: path.read_bytes() for path in prepare.run(source, seed=7).path.iterdir()}
    after = {path.name: path.read_bytes() for path in prepare.run(source, seed=7).path.iterdir()}
    assert before == after
    other = prepare.run(source, seed=8).path / "all.jsonl"
    assert other.read_bytes() != before["all.jsonl"]


def test_prepared_data_can_be_prepared_again(prepare: Preparer) -> None:
    first = prepare.run(prepare.rows("a.jsonl", labelled(50)), splits=SHARES, duplicates="exact")
    moved = first.path.rename(prepare.root / "first")
    again = prepare.run(moved, splits=SHARES, duplicates="exact")
    lines = {name: sorted((moved / f"{name}.jsonl").read_text().splitlines()) for name in SHARES}
    assert {name: sorted((again.path / f"{name}.jsonl").read_text().splitlines()) for name in SHARES} == lines
    assert json.loads((again.path / "data.json").read_text())["labels"] == ["common", "rare"]
