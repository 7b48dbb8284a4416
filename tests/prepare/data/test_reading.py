"""Every kind of source becomes records; what is no record is reported with its line, never with its text."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.reading import Reading
from hybrid_llm.prepare.data.sources import find_sources

if TYPE_CHECKING:
    from tests.prepare.data.conftest import Preparer

TEXTS = ["the cat sat on the mat", "rain falls mainly in the plain", "a third line of quite other words"]


def texts(records: list[dict[str, Any]]) -> list[str]:
    return sorted(record["text"] for record in records)


def test_reads_lines_paragraphs_and_documents(prepare: Preparer) -> None:
    source = prepare.write("a.txt", f"{TEXTS[0]}\n{TEXTS[1]}\n\n{TEXTS[2]}\r\n")
    assert texts(prepare.records(source)) == sorted(TEXTS)
    assert texts(prepare.records(source, unit="paragraphs")) == sorted([f"{TEXTS[0]}\n{TEXTS[1]}", TEXTS[2]])
    assert texts(prepare.records(source, unit="documents")) == [f"{TEXTS[0]}\n{TEXTS[1]}\n\n{TEXTS[2]}"]


def test_reads_every_table_with_named_columns(prepare: Preparer) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"review": text, "stars": number} for number, text in enumerate(TEXTS)]
    prepare.rows("a.jsonl", rows)
    prepare.write("a.csv", "review,stars\n" + "".join(f'"{row["review"]}",{row["stars"]}\n' for row in rows))
    prepare.write("a.tsv", "review\tstars\n" + "".join(f"{row['review']}\t{row['stars']}\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), prepare.root / "a.parquet", row_group_size=2)
    prepare.write("b.jsonl.gz", gzip.compress((prepare.root / "a.jsonl").read_bytes()))
    for name in ("a.jsonl", "a.csv", "a.tsv", "a.parquet", "b.jsonl.gz"):
        folder = prepare.run(prepare.root / name, text="review", label="stars")
        assert folder.card.format is DataFormat.LABELLED
        assert folder.card.labels == ("0", "1", "2")
        found = sorted(folder.records("all"), key=lambda record: record["label"])
        assert found == [{"text": text, "label": str(number)} for number, text in enumerate(TEXTS)]


def test_reads_an_array_of_any_length_record_by_record(prepare: Preparer) -> None:
    rows = [{"text": f"{number} {'word ' * (number * 37 % 3000)}é".strip()} for number in range(60)]
    source = prepare.write("a.json", json.dumps(rows, indent=1, ensure_ascii=False))
    assert texts(prepare.records(source, duplicates="exact")) == texts(rows)
    lines = prepare.write("b.json", "".join(json.dumps(row) + "\n" for row in rows))
    assert texts(prepare.records(lines, duplicates="exact")) == texts(rows)
    for broken in ("[]", "[17]", '[{"text": "one"}', '[{"text": "one"} {"text": "two"}]', '[{"text": "on'):
        with pytest.raises(ConfigError, match=r"c\.json"):
            prepare.run(prepare.write("c.json", broken))


def test_reads_a_folder_saved_by_datasets(prepare: Preparer) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good", "odd"])}
    )
    saved = datasets.Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2]}, features=features)
    datasets.DatasetDict({"train": saved}).save_to_disk(str(prepare.root / "saved"))
    records = prepare.records(prepare.root / "saved")
    assert {record["text"]: record["label"] for record in records} == dict(
        zip(TEXTS, ["bad", "good", "odd"], strict=True)
    )


def test_the_name_of_a_member_can_say_the_label(prepare: Preparer) -> None:
    with zipfile.ZipFile(prepare.root / "set.zip", "w") as archive:
        archive.writestr("set/README.txt", "documentation")
        archive.writestr("set/rt.pos", f"{TEXTS[0]}\ncaf\xe9 au lait\n".encode("latin-1"))
        archive.writestr("set/rt.neg", f"{TEXTS[1]}\n")
    options = {"encoding": "latin-1", "label_by_file": {"good": "*.pos", "bad": "*.neg"}}
    records = prepare.records(prepare.root / "set.zip", **options)
    assert sorted((record["label"], record["text"]) for record in records) == [
        ("bad", TEXTS[1]), ("good", "café au lait"), ("good", TEXTS[0]),
    ]  # fmt: skip


def test_conversations_of_both_forms_are_one_format(prepare: Preparer) -> None:
    openai = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, {"role": "assistant", "content": "Hello"}]
    shared = [{"from": "human", "value": "Bye"}, {"from": "gpt", "value": "Farewell"}]
    source = prepare.rows("a.jsonl", [{"messages": openai}, {"conversations": shared}])
    found = sorted(record["messages"][1]["content"] for record in prepare.records(source))
    assert found == ["Farewell", "Hello"]
    assert {message["role"] for record in prepare.records(source) for message in record["messages"]} == {
        "user", "assistant",
    }  # fmt: skip


def test_preferences_may_have_their_prompt_in_both_answers(prepare: Preparer) -> None:
    begin = {"role": "user", "content": "Which way?"}
    both = {
        "chosen": [begin, {"role": "assistant", "content": "Left"}],
        "rejected": [begin, {"role": "assistant", "content": "Right"}],
    }
    plain = {"prompt": "How far?", "chosen": "A mile", "rejected": "No idea"}
    records = prepare.records(prepare.rows("a.jsonl", [both, plain]))
    found = sorted(tuple(record[part][0]["content"] for part in ("prompt", "chosen", "rejected")) for record in records)
    assert found == [("How far?", "A mile", "No idea"), ("Which way?", "Left", "Right")]


def test_tagged_tokens_stay_aligned(prepare: Preparer) -> None:
    row = {"tokens": ["Ann", "lives", "in", "Rome"], "tags": ["PER", "O", "O", "LOC"]}
    folder = prepare.run(prepare.rows("a.jsonl", [row]))
    assert list(folder.records("all")) == [row]
    assert folder.card.labels == ("LOC", "O", "PER")


def test_utf_16_is_recognised_by_its_mark(prepare: Preparer) -> None:
    source = prepare.write("a.txt", "żółw one\nžaba two\n".encode("utf-16"))
    assert texts(prepare.records(source)) == sorted(["żółw one", "žaba two"])


BROKEN = {
    "not JSON": '{"text": "secret-word"\n',
    "not a JSON object": '["secret-word"]\n',
    "no `text`": '{"other": "secret-word"}\n',
    "`text` is empty": '{"text": null}\n',
    "`text` is not a text": '{"text": 17}\n',
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_line_stops_with_its_number_or_is_counted(prepare: Preparer, fault: str) -> None:
    good = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    source = prepare.write("a.jsonl", good + BROKEN[fault])
    with pytest.raises(ConfigError, match=r"a\.jsonl:4: ") as caught:
        prepare.run(source)
    assert fault in str(caught.value)
    assert "on_error: skip" in str(caught.value)
    assert "secret-word" not in str(caught.value)
    folder = prepare.run(source, on_error="skip")
    assert folder.card.splits == {"all": 3}
    broken = folder.card.figures["read"]["broken"]
    assert broken["lines"] == 1
    assert f"{source}:4" in broken["first"][0]
    assert "secret-word" not in folder.card.to_json()


def test_more_broken_lines_than_the_bound_stop(prepare: Preparer) -> None:
    source = prepare.write("a.jsonl", '{"text": "one"}\n' + "{\n" * 4)
    assert prepare.run(source, on_error="skip", max_errors=4).card.splits == {"all": 1}
    with pytest.raises(ConfigError, match="more than 3 broken lines"):
        prepare.run(source, on_error="skip", max_errors=3)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", b"", {}, "is empty"),
        ("a.txt", b"\n \n", {}, "is empty"),
        ("a.txt", b"caf\xe9\n", {}, "set `encoding`"),
        ("a.txt", b"x" * (1 << 20) + b"yz\n", {"max_line_mb": 1}, "a line of more than 1 MiB"),
        ("a.csv", b'text,label\n"open,1\n', {}, "not CSV"),
        ("a.csv", b"text,label\none,1,2\n", {}, "3 fields, and the header has 2"),
        ("a.csv", b"text,text\none,1\n", {}, "must name each column"),
        ("a.csv", b"text,label\none,\n", {}, "`label` is empty"),
        ("a.jsonl", b'{"text": "one", "label": "bad"}\n', {"labels": ("good",)}, "not among `labels`"),
        ("a.jsonl", b'{"text": "one", "label": [1]}\n', {}, "is not a label"),
        ("a.jsonl", b'{"body": "one"}\n', {}, "name the columns"),
        ("a.jsonl", b'{"text": "a"}\n{"messages": []}\n', {}, "formats of the lines are mixed"),
        ("a.jsonl", b'{"messages": [{"role": "king", "content": "x"}]}\n', {}, "no role"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": null}]}\n', {}, "has no text"),
        ("a.jsonl", b'{"tokens": ["a", "b"], "tags": ["O"]}\n', {}, "2 tokens and 1 tags"),
        ("a.jsonl", b'{"chosen": "a", "rejected": "b"}\n', {}, "has no prompt"),
        ("a.parquet", b"PAR1 no", {}, "not readable as Parquet"),
        ("a.jsonl.gz", b"no gzip", {}, "is damaged"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "abc def"}\n')[:-9], {}, "is damaged"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(
    prepare: Preparer, name: str, content: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare.run(prepare.write(name, content), **options)
    assert not list((prepare.root / "scratch").iterdir())


def test_a_long_line_is_skipped_as_a_whole(prepare: Preparer) -> None:
    source = prepare.write("a.txt", b"first\n" + b"x" * (3 << 20) + b"\nlast\n")
    folder = prepare.run(source, max_line_mb=1, on_error="skip")
    assert texts(list(folder.records("all"))) == ["first", "last"]
    assert f"{source}:2" in folder.card.figures["read"]["broken"]["first"][0]


def test_a_compressed_bomb_is_refused(prepare: Preparer) -> None:
    bomb = gzip.compress((b"0" * 65535 + b"\n") * 1600)
    with pytest.raises(ConfigError, match="unpacks to more than 200 times its size"):
        prepare.run(prepare.write("bomb.txt.gz", bomb), duplicates="exact", private="keep", mend=False)
    with zipfile.ZipFile(prepare.root / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.txt", b"0" * (100 << 20))
    with pytest.raises(ConfigError, match="unpacks to more than 200 times its size"):
        prepare.run(prepare.root / "bomb.zip")


@pytest.mark.parametrize("unit", ["lines", "paragraphs", "documents"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "latin-1"])
def test_many_blank_lines_are_few_rows_and_the_lines_after_them_have_their_number(
    tmp_path: Path, unit: str, encoding: str
) -> None:
    blank = "\n" * 300_000 + " \t\r\n" * 3
    path = tmp_path / "a.txt"
    path.write_bytes(f"{blank}first\n{blank}second\n".encode(encoding))
    rows = list(Reading(unit=unit, encoding=encoding).rows(find_sources(path)[0]))
    assert len(rows) <= 4
    assert rows[-1].number == path.read_bytes().decode(encoding).count("\n")
    assert " ".join(row.values["text"] for row in rows).split() == ["first", "second"]
    if unit == "documents":
        assert rows[0].values["text"].count("\n") == rows[0].number - 1


def test_a_compressed_bomb_of_short_lines_is_refused_before_a_line_is_read(prepare: Preparer) -> None:
    source = find_sources(prepare.write("bomb.txt.gz", gzip.compress(b"a\n" * (40 << 20), 1)))[0]
    rows = Reading().rows(source)
    with pytest.raises(ConfigError, match="unpacks to more than 200 times its size"):
        next(rows)


@pytest.mark.parametrize("packed", [False, True])
def test_blank_lines_of_a_table_are_no_rows_unless_they_are_quoted(tmp_path: Path, *, packed: bool) -> None:
    content = b"text,n\n\n\r\n\none,1\n" + b"\n" * 1000 + b'"two\n\n\nlines",2\n\n3,3\n'
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = list(Reading().rows(find_sources(path)[0]))
    assert [(row.number, dict(row.values), row.fault) for row in rows] == [
        (5, {"text": "one", "n": "1"}, ""),
        (1009, {"text": "two\n\n\nlines", "n": "2"}, ""),
        (1011, {"text": "3", "n": "3"}, ""),
    ]


def test_a_source_that_the_system_cannot_read_is_an_error(prepare: Preparer) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read or written \(Input/output error\)"):
        prepare.run(Path("/proc/self/mem"))


def test_missing_sources_are_named(prepare: Preparer) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        prepare.run(prepare.root / "nowhere.txt")
    (prepare.root / "empty").mkdir()
    with pytest.raises(ConfigError, match="no file of data"):
        prepare.run(prepare.root / "empty")
    prepare.write("empty/a.txt", "one")
    with pytest.raises(ConfigError, match=r"no file whose name matches '\*\.csv'"):
        prepare.run(prepare.root / "empty", files="*.csv")
