"""Files that others made, small ones that stand for far more among them: each ends in a typed error, at once."""

from __future__ import annotations

import collections
import json
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.backends.edge.folder import read_manifest
from hybrid_llm.backends.models.registry.describe import describe
from hybrid_llm.backends.node.engines import check_folder
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsontext import parse_json, read_json
from hybrid_llm.prepare.compression.frontier.variants import read_frontier
from hybrid_llm.prepare.data.folder import DataFolder
from hybrid_llm.prepare.data.reading import Reading, Row
from hybrid_llm.prepare.data.sources import find_sources
from hybrid_llm.prepare.evaluation.results import read_results
from hybrid_llm.prepare.hub_folder import HubFolder
from hybrid_llm.prepare.recipe.card import read_card
from hybrid_llm.prepare.recipe.record import StepRecord

SECRET = "jane.doe@example.org"
DEEP = b'{"a":' * 100_000
MEMORY = 1 << 30
"""Bytes beyond which a reader of a small file has unpacked a bomb."""
BOMBS = {
    "a value for many rows": "pa.DictionaryArray.from_arrays(pa.array([0] * 999, pa.int32()), ['x' * (8 << 20)])",
    "a list of nothing": "pa.ListArray.from_arrays(pa.array([0, 7 << 24], pa.int32()), pa.nulls(7 << 24, pa.int32()))",
}
"""What is in it -> the column `text` of a Parquet file of less than 1 KB."""


def rows(path: Path, **options: Any) -> list[Row]:
    return [row for source in find_sources(path) for row in Reading(**options).rows(source)]


@pytest.mark.parametrize("bomb", BOMBS)
def test_parquet_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "bomb.parquet"
    table = f"pa.table({{'text': {BOMBS[bomb]}}})"
    writer = (
        f"import sys, pyarrow as pa, pyarrow.parquet as pq; pq.write_table({table}, sys.argv[1], compression='zstd')"
    )
    subprocess.run([sys.executable, "-c", writer, path], check=True)  # what it takes is none of the reader's
    assert path.stat().st_size < 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match="200 times its size"):
        collections.deque(Reading().rows(*find_sources(path)), maxlen=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY >> 10


def test_a_row_of_parquet_that_is_too_long_is_a_fault_of_it_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["short", "x" * (3 << 20), "short again"]}), tmp_path / "a.parquet")
    found = rows(tmp_path / "a.parquet", max_line=1 << 20)
    assert [row.fault for row in found] == ["", "a row of more than 1 MiB", ""]
    assert [row.values for row in found] == [{"text": "short"}, {}, {"text": "short again"}]


def test_an_archive_is_bounded_as_a_whole_and_its_list_is_read_once(tmp_path: Path) -> None:
    bomb, many = tmp_path / "bomb.zip", tmp_path / "many.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"{number}.txt", bytes(40 << 20))  # each alone would be let through
    with pytest.raises(ConfigError, match="200 times its size"):
        find_sources(bomb)
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(2000):  # a list that is read for each member makes this a matter of minutes
            archive.writestr(f"{number}.txt", f"text {number}")
    assert len(rows(many)) == 2000


def test_an_array_that_is_nested_too_deeply_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" * 1_000_000)
    (row,) = rows(tmp_path / "a.json")
    assert row.fault == "nested too deeply"


@pytest.mark.parametrize("content", [DEEP, f'"{SECRET}'.encode() + b"\xff", b"9" * 5000, b"null", b"[]"])
def test_records_that_are_damaged_are_typed_errors_which_quote_nothing(tmp_path: Path, content: bytes) -> None:
    for name in ("data.json", "card.json", "results.json", "config.json", "manifest.json", "step.json"):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    readers = (DataFolder.open, read_card, read_frontier, HubFolder.open, read_manifest, check_folder)
    for read in (
        *readers,
        lambda folder: read_results(folder / "results.json"),
        lambda folder: describe(folder, "m", _),
    ):
        with pytest.raises(ConfigError) as raised:
            read(tmp_path)
        assert SECRET not in str(raised.value)
    assert StepRecord.read(tmp_path) is None


def _(*_: object) -> None:
    """No progress."""


@pytest.mark.parametrize("line", [DEEP, f'{{"text": "{SECRET}'.encode() + b'\xff"}', b"17"])
def test_a_broken_record_of_a_data_folder_is_named_by_its_line(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "data.json").write_text('{"version": 1, "format": "text", "splits": {"train": 2}}')
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "sound"}\n' + line + b"\n")
    with pytest.raises(ConfigError, match=r"train\.jsonl:2: ") as raised:
        list(DataFolder.open(tmp_path).records("train"))
    assert SECRET not in str(raised.value)


def test_a_split_is_no_path(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('{"version": 1, "format": "text", "splits": {"../train": 2}}')
    with pytest.raises(ConfigError, match="split"):
        DataFolder.open(tmp_path)


def test_json_of_others(tmp_path: Path) -> None:
    assert parse_json(b'{"a": [1]}') == {"a": [1]}
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        read_json(tmp_path / "huge.json")


def hub_folder(folder: Path, config: dict[str, Any]) -> Path:
    """A folder with the weights of two layers of width 8, and 32 learnt positions."""
    shapes = {f"layer.{at}.weight": [8, 8] for at in range(2)} | {"position_embeddings.weight": [32, 8]}
    header, at = {}, 0
    for name, (one, two) in shapes.items():
        size = 4 * one * two
        header[name] = {"dtype": "F32", "shape": [one, two], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_configuration_of_a_model_that_its_weights_are_not(tmp_path: Path) -> None:
    sound = {"hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 32, "max_position_embeddings": 32}
    check_folder(hub_folder(tmp_path, sound))
    for key, number in (
        ("num_hidden_layers", 10**9),
        ("n_layer", 5000),
        ("hidden_size", 1 << 20),
        ("vocab_size", -1),
        ("max_position_embeddings", 10**12),
    ):
        for config in ({**sound, key: number}, {"text_config": {**sound, key: number}}):
            with pytest.raises(ConfigError, match=f"`{key}` that its weights do not have"):
                check_folder(hub_folder(tmp_path, config))
    with pytest.raises(ConfigError, match="id2label"):
        check_folder(hub_folder(tmp_path, {**sound, "id2label": {str(at): "x" for at in range(100)}}))
    for wrong in ({"architectures": 5}, {"id2label": {"one": "x"}}, {"id2label": [1]}):
        with pytest.raises(ConfigError, match="architectures"):
            HubFolder.open(hub_folder(tmp_path, {**sound, **wrong}))


@pytest.mark.parametrize("index", [{"weight_map": {"a": "../other.safetensors"}}, {"weight_map": [1]}, {}])
def test_an_index_names_files_of_its_folder_alone(tmp_path: Path, index: dict[str, Any]) -> None:
    hub_folder(tmp_path, {})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="weight_map"):
        check_folder(tmp_path)
