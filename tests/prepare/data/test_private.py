"""No planted value is in prepared data, whatever field of a record it stands in; figures have counts, never values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.protocols import Finding
from hybrid_llm.prepare.data.figures import Figures
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.data.privacy import Private, RecordGuard
from hybrid_llm.prepare.data.records import Record
from hybrid_llm.prepare.data.step import PrepareData
from hybrid_llm.prepare.step import Input, Work
from tests.prepare.data.conftest import Preparer

ADDRESSES = st.from_regex(r"[a-z]{5,9}[0-9]{2}@[a-z]{6,9}\.(org|com)", fullmatch=True)
PHONES = st.from_regex(r"\+49 30 [2-9][0-9]{6}", fullmatch=True)
WORDS = st.sampled_from(["please", "write", "to", "my", "office", "and", "ask", "for", "the", "report", "soon"])
FILLERS = st.lists(WORDS, min_size=2, max_size=8).map(" ".join)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[dict[str, Any], list[str]]:
    """A conversation in which values stand, some of them in more than one message; and the values."""
    values = [draw(ADDRESSES), draw(PHONES)]
    parts = [f"{draw(FILLERS)} {value} {draw(FILLERS)}" for value in values]
    again = f"{draw(FILLERS)} {values[draw(st.integers(0, 1))].upper()}"
    roles = ["user", "assistant", "user"]
    contents = zip(roles, [*parts, again], strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in contents]}, values


def everything(folder: DataFolder) -> str:
    return "".join(path.read_text() for path in folder.path.iterdir())


@pytest.mark.parametrize("action", ["pseudonymise", "remove", "drop"])
@given(records=st.lists(conversations(), min_size=1, max_size=4), plain=FILLERS)
@settings(max_examples=15)
def test_no_planted_value_is_left_in_any_field(
    action: str, records: list[tuple[dict[str, Any], list[str]]], plain: str
) -> None:
    with TemporaryDirectory() as root:
        prepare = Preparer(Path(root))
        harmless = {"messages": [{"role": "user", "content": plain}]}
        source = prepare.rows("a.jsonl", [harmless, *[record for record, _ in records]])
        folder = prepare.run(source, private=action)
        written = everything(folder).casefold()
        for value in [value for _, values in records for value in values]:
            assert value.casefold() not in written
        private = folder.card.figures["private"]
        assert private["in"] == private["out"] + sum(private["dropped"].values())
        if action == "drop":
            assert folder.card.splits == {"all": 1}
            assert private["found"]["email"] >= 1


def one(prepare: Preparer, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = prepare.run(prepare.root / "a.jsonl", **options)
    return next(folder.records("all")), folder.card.figures["private"]


def test_each_action_leaves_what_it_says(prepare: Preparer) -> None:
    prepare.rows("a.jsonl", [{"text": "Write to ann.lee@example.org, I said ann.lee@example.org", "label": "x"}])
    record, figures = one(prepare, private="remove")
    assert record == {"text": "Write to [EMAIL], I said [EMAIL]", "label": "x"}
    assert figures["replaced"] == {"email": 1}
    record, figures = one(prepare, private="pseudonymise")
    words = record["text"].replace(",", "").split()
    assert words[2] == words[5]
    assert words[2].startswith("EMAIL_")
    with pytest.raises(ConfigError, match="'private': 1"):
        one(prepare, private="drop")
    kept = next(prepare.run(prepare.root / "a.jsonl", private="keep").records("all"))
    assert "ann.lee@example.org" in kept["text"]


def test_two_records_about_one_person_cannot_be_joined(prepare: Preparer) -> None:
    rows = [{"text": f"{text} ann.lee@example.org"} for text in ("please write to", "the invoice went to")]
    folder = prepare.run(prepare.rows("a.jsonl", rows))
    names = {record["text"].split()[-1] for record in folder.records("all")}
    assert len(names) == 2


def test_the_pseudonym_does_not_depend_on_the_value(prepare: Preparer) -> None:
    """Whoever knows the seed and guesses a value cannot check the guess."""
    written = []
    for value in ("ann.lee@example.org", "robert@clinic.example.com"):
        prepare.rows("a.jsonl", [{"text": f"please write to {value} today"}])
        written.append(one(prepare)[0])
    assert written[0] == written[1]


def test_neither_order_nor_split_follows_from_a_value(prepare: Preparer) -> None:
    """The data is the same whatever the values are."""
    written = []
    for offset in (0, 5000):
        rows = [{"text": f"case {n}: write to a{n + offset}@example.org, {n % 7} copies"} for n in range(60)]
        folder = prepare.run(prepare.rows("a.jsonl", rows), duplicates="exact", splits={"train": 0.5, "test": 0.5})
        written.append({split: list(folder.records(split)) for split in folder.card.splits})
    assert written[0] == written[1]


def test_records_that_are_equal_without_their_values_are_one(prepare: Preparer) -> None:
    rows = [{"text": f"please confirm your address a{n}@example.org"} for n in range(5)]
    folder = prepare.run(prepare.rows("a.jsonl", rows), duplicates="exact", private="remove")
    assert list(folder.records("all")) == [{"text": "please confirm your address [EMAIL]"}]
    assert folder.card.figures["private"]["dropped"] == {"equal_without_values": 4}


def test_tags_stay_aligned_with_tokens(prepare: Preparer) -> None:
    row = {
        "tokens": ["Call", "+49", "30", "2345678", "or", "ann.lee@example.org", "now"],
        "tags": ["O", "B-TEL", "I-TEL", "I-TEL", "O", "B-MAIL", "O"],
    }
    prepare.rows("a.jsonl", [row])
    record, figures = one(prepare, private="remove")
    assert record["tokens"] == ["Call", "[TEL]", "or", "[EMAIL]", "now"]
    assert record["tags"] == ["O", "B-TEL", "O", "B-MAIL", "O"]
    assert figures["replaced"] == {"email": 1, "tel": 1}


def test_a_record_whose_values_and_tokens_cannot_be_told_apart_is_dropped(prepare: Preparer) -> None:
    """Tokens that are JSON together: without its values it is written anew, and places are others."""
    tokens = ['{"mail":', '"ann.lee\\u0040example.org",', '"copies":', "1}"]
    rows = [{"tokens": tokens, "tags": ["O"] * 4}, {"tokens": ["Call", "now"], "tags": ["O", "O"]}]
    folder = prepare.run(prepare.rows("a.jsonl", rows), private="remove")
    assert [record["tokens"] for record in folder.records("all")] == [["Call", "now"]]
    assert folder.card.figures["private"]["dropped"] == {"private_in_doubt": 1}


class Unsure:
    """A detector that fails at some texts."""

    name = "unsure"

    def find(self, text: str) -> Iterator[Finding]:
        if "odd" in text:
            raise ValueError(len(text))
        yield from ()


@pytest.mark.parametrize("action", [Private.PSEUDONYMISE, Private.REMOVE, Private.DROP])
def test_a_record_at_which_a_detector_fails_is_dropped(action: Private) -> None:
    guard, figures = RecordGuard(action, ["unsure", "email"], [Unsure()], seed=0), Figures()
    plain, odd = (Record(format=DataFormat.TEXT, texts=(text,)) for text in ("a plain text", "an odd text"))
    assert guard.applied(plain, figures) == plain
    assert guard.applied(odd, figures) is None
    assert figures.dropped == {"private_in_doubt": 1}


def test_named_detectors_or_a_policy_limit_what_is_private(prepare: Preparer) -> None:
    prepare.rows("a.jsonl", [{"text": "ann.lee@example.org or 192.168.100.17"}])
    assert one(prepare, private="remove", detectors=("email",))[0]["text"] == "[EMAIL] or 192.168.100.17"
    policy = prepare.write(
        "own.yaml", "version: 1\nname: own\ntags:\n  net: {allow: [edge], detect: [ip_address]}\nrules: []\n"
    )
    record, _ = one(prepare, private="remove", policy=policy)
    assert record["text"].startswith("ann.lee@example.org or [")
    with pytest.raises(ConfigError, match="there is no detector `mails`: name some of credential, email"):
        one(prepare, detectors=("mails",))
    with pytest.raises(ConfigError, match="either `detectors` or a `policy`"):
        one(prepare, detectors=("email",), policy="balanced")


def test_a_configuration_brings_its_own_detectors(prepare: Preparer) -> None:
    prepare.write("hybrid.yaml", "version: 1\nbackends:\n  edge: {kind: onnx, model: default}\n")
    prepare.rows("a.jsonl", [{"text": "ann.lee@example.org"}])
    assert one(prepare, private="remove", config=prepare.root / "hybrid.yaml")[0]["text"] == "[EMAIL]"


def test_nobody_else_can_read_what_is_not_guarded_yet(prepare: Preparer) -> None:
    source, scratch, modes = prepare.write("a.txt", "write to ann.lee@example.org\n"), prepare.root / "scratch", set()

    def look(what: str, share: float) -> None:
        modes.update(path.stat().st_mode & 0o777 for path in scratch.iterdir())

    scratch.mkdir()
    (prepare.root / "out").mkdir()
    step = PrepareData(sources=(Input(str(source)),), splits={"all": 1.0})
    step.run(Work(out=prepare.root / "out", scratch=scratch, progress=look))
    assert modes == {0o700}
    assert not list(scratch.iterdir())


def test_errors_and_figures_never_show_a_value(prepare: Preparer) -> None:
    row = {"text": "my card is 4111 1111 1111 1111 and my address ann.lee@example.org"}
    folder = prepare.run(prepare.rows("a.jsonl", [row]))
    card = json.dumps(folder.card.figures)
    assert folder.card.figures["private"]["replaced"] == {"email": 1, "card": 1}
    assert "4111" not in card
    assert "ann" not in card
