"""What does not fit ends in one typed error that says what to do, before anything is trained."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.step import Input
from hybrid_llm.prepare.tuning.checkpoints import is_whole, last_whole, prune, seal
from hybrid_llm.prepare.tuning.failures import TrainingFailed, clear_errors
from hybrid_llm.prepare.tuning.settings import Launch
from hybrid_llm.prepare.tuning.step import Tune
from hybrid_llm.prepare.tuning.trainers import saving
from tests.prepare.tuning.samples import Samples, tune, write_data

SECRET = "the-secret-words"
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": SECRET}]}
BAD_RECORDS: dict[str, tuple[DataFormat, Any, str]] = {
    "label missing": (DataFormat.LABELLED, {"text": SECRET}, "train.jsonl:9: the record has no label"),
    "label null": (DataFormat.LABELLED, {"text": SECRET, "label": None}, "has no label: label it or leave it out"),
    "label unknown": (DataFormat.LABELLED, {"text": "a", "label": SECRET}, "a label that data.json does not list"),
    "label a list": (DataFormat.LABELLED, {"text": "a", "label": [SECRET]}, "does not list"),
    "text missing": (DataFormat.LABELLED, {"label": "wet"}, "has no `text`"),
    "text a number": (DataFormat.TEXT, {"text": 5}, "has no `text`"),
    "record a list": (DataFormat.TEXT, [SECRET], "train.jsonl:9: it is no object"),
    "tags missing": (DataFormat.TAGGED, {"tokens": [SECRET]}, "has no `tags`"),
    "tags too few": (DataFormat.TAGGED, {"tokens": ["a", SECRET], "tags": ["O"]}, "2 tokens and 1 tags"),
    "tags unknown": (DataFormat.TAGGED, {"tokens": ["a"], "tags": [SECRET]}, "1 tags that data.json does not list"),
    "role missing": (DataFormat.CHAT, {"messages": [{"content": SECRET}]}, "without role or content"),
    "no messages": (DataFormat.CHAT, {"messages": []}, "has no message"),
    "no rejected": (DataFormat.PREFERENCE, {"prompt": CHAT["messages"], "chosen": CHAT["messages"]}, "no `rejected`"),
    "ids too large": (DataFormat.BLOCKS, {"input_ids": [1, 10**6]}, "ids that the tokenizer of the model does not"),
    "no ids": (DataFormat.BLOCKS, {"input_ids": []}, "no numbers in `input_ids`"),
    "ids texts": (DataFormat.BLOCKS, {"input_ids": [SECRET]}, "no numbers in `input_ids`"),
    "block too long": (DataFormat.BLOCKS, {"input_ids": [1] * 33}, "has 33 tokens, and the model takes 32"),
}
GOOD: dict[DataFormat, Any] = {
    DataFormat.TEXT: {"text": "the day"},
    DataFormat.LABELLED: {"text": "the day", "label": "wet"},
    DataFormat.TAGGED: {"tokens": ["a"], "tags": ["O"]},
    DataFormat.CHAT: CHAT,
    DataFormat.PREFERENCE: {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}],
    },
    DataFormat.BLOCKS: {"input_ids": [5, 6, 7]},
}


def _refused(model: Path, data: Path, folder: Path, message: str, **options: Any) -> str:
    with pytest.raises(ConfigError, match=message) as caught:
        tune(model, data, folder, **options)
    assert list((folder / "out").iterdir()) == []
    return str(caught.value)


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_a_bad_record_is_named_without_its_text(case: str, samples: Samples, tmp_path: Path) -> None:
    kind, record, message = BAD_RECORDS[case]
    data = write_data(tmp_path / "data", kind, {"train": [*[GOOD[kind]] * 8, record]})
    shown = _refused(samples.model(kind), data, tmp_path, re.escape(message))
    assert SECRET not in shown


def test_a_broken_line_is_named(samples: Samples, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", DataFormat.TEXT, {"train": [GOOD[DataFormat.TEXT]] * 8})
    with (data / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "the')
    _refused(samples.decoder, data, tmp_path, "train.jsonl:9")


def _options(launch: dict[str, Any] | None = None, **options: Any) -> Tune:
    return Tune(model=Input("model"), data=Input("data"), launch=Launch(**launch or {}), **options)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused(split: str, samples: Samples, tmp_path: Path) -> None:
    splits = {name: [] if name == split else [CHAT] * 8 for name in ("train", "validation")}
    data = write_data(tmp_path / "data", DataFormat.CHAT, splits)
    _refused(samples.decoder, data, tmp_path, f"no records in the split `{split}`")


def test_a_split_without_a_whole_batch_is_refused(samples: Samples, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", DataFormat.CHAT, {"train": [CHAT] * 7})
    _refused(samples.decoder, data, tmp_path, "7 rows, fewer than one `batch` of 8: lower `batch`")


def test_rows_without_anything_to_learn_are_left_out(samples: Samples, tmp_path: Path) -> None:
    """The answer begins behind the length: nothing of it is left."""
    long = [{"role": "user", "content": "rain " * 50}, {"role": "assistant", "content": "yes"}]
    data = write_data(tmp_path / "data", DataFormat.CHAT, {"train": [{"messages": long}] * 8})
    _refused(samples.decoder, data, tmp_path, r"gives no rows \(8 were left out")


def test_a_tokenizer_without_a_template_is_refused(samples: Samples, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(samples.decoder, model)
    (model / "chat_template.jinja").unlink()
    _refused(model, samples.data(DataFormat.CHAT), tmp_path, "has no chat template.*add a chat_template.jinja")


def test_a_template_that_refuses_is_reported_without_the_text(samples: Samples, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(samples.decoder, model)
    (model / "chat_template.jinja").write_text("{{ raise_exception(messages[0].content) }}", encoding="utf-8")
    data = write_data(tmp_path / "data", DataFormat.CHAT, {"train": [CHAT] * 8})
    assert SECRET not in _refused(model, data, tmp_path, "refuses a conversation")


def test_a_length_over_the_context_is_refused(samples: Samples, tmp_path: Path) -> None:
    data = samples.data(DataFormat.TEXT)
    _refused(samples.decoder, data, tmp_path, "`max_length` is 4096, .* is 2048 tokens", max_length=4096)


def test_records_over_the_length_are_cut_and_counted(samples: Samples, tmp_path: Path) -> None:
    record = {"text": "the day " * 100, "label": "wet"}
    data = write_data(tmp_path / "data", DataFormat.LABELLED, {"train": [record] * 8})
    outcome = tune(samples.encoder, data, tmp_path, steps=1)
    assert outcome.card["training"]["rows"]["train"] == {"rows": 8, "cut": 8}


def test_a_model_that_does_not_suit_the_data_is_refused(samples: Samples, tmp_path: Path) -> None:
    tune(samples.encoder, samples.data(DataFormat.LABELLED), tmp_path / "made", steps=1)
    _refused(tmp_path / "made" / "out", samples.data(DataFormat.TEXT), tmp_path, "is for a causal language model")


def test_blocks_of_another_tokenizer_are_refused(samples: Samples, tmp_path: Path) -> None:
    blocks = {"train": [GOOD[DataFormat.BLOCKS]] * 8}
    data = write_data(tmp_path / "data", DataFormat.BLOCKS, blocks, tokenizer="0" * 64)
    _refused(samples.decoder, data, tmp_path, "made with another tokenizer")


def test_one_label_is_no_classification(samples: Samples, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", DataFormat.LABELLED, {"train": [GOOD[DataFormat.LABELLED]] * 8}, ["wet"])
    _refused(samples.encoder, data, tmp_path, "has 1 labels: a classifier needs two or more")


def test_early_stopping_needs_validation(samples: Samples, tmp_path: Path) -> None:
    data = samples.data(DataFormat.CHAT, held_out=0)
    _refused(samples.decoder, data, tmp_path, "needs a split `validation`", early_stopping=2)


def test_a_folder_that_is_no_data_is_refused(samples: Samples, tmp_path: Path) -> None:
    _refused(samples.decoder, samples.decoder, tmp_path, "is no data folder")


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(samples: Samples, tmp_path: Path) -> None:
    """The header of the weights says that they are huge; nothing else is read."""
    model = tmp_path / "model"
    shutil.copytree(samples.decoder, model)
    huge = 2**43
    weights = {"x": {"dtype": "F32", "shape": [huge // 4], "data_offsets": [0, huge]}}
    weights |= {f"y{at}": {"dtype": "F32", "shape": [0], "data_offsets": [huge, huge]} for at in range(9)}
    header = json.dumps(weights).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + huge)
    message = r"tuning .* takes 35184.37 GB of memory \(2,199,023.3 M weights\), and .* GB are free"
    _refused(model, samples.data(DataFormat.TEXT), tmp_path, message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 6, "accumulate": 4}, "`batch` must be a multiple of"),
        ({"batch": 8, "launch": {"processes": 3}}, "`batch` must be a multiple of"),
        ({"merge": False}, "which only `method: lora` makes"),
        ({"launch": {"sharding": "full"}}, "needs more than one of `processes`"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _options(**options)


@pytest.mark.parametrize("options", [{"method": "lora"}, {}])
def test_sharding_is_refused_where_it_is_not_supported(
    options: dict[str, Any], samples: Samples, tmp_path: Path
) -> None:
    kind = DataFormat.TEXT if options else DataFormat.PREFERENCE
    launch = Launch(processes=2, sharding="full")
    _refused(samples.decoder, samples.data(kind), tmp_path, "`sharding: full` is for", launch=launch, **options)


def test_a_loss_that_is_no_number_ends_the_training(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"no finite number after step \d+: lower `learning_rate`"):
        tune(samples.decoder, samples.data(DataFormat.TEXT), tmp_path, learning_rate=1e9, clip=1e9, steps=200, every=50)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_memory_that_runs_out_says_what_to_lower(error: Exception) -> None:
    with pytest.raises(TrainingFailed, match="lower `batch`"), clear_errors():
        raise error


FULL: dict[str, Exception] = {
    "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5312 vs 5204"),
    "safetensors": RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "python": OSError(28, "No space left on device"),
}
"""What a file system of 9 MB was seen to raise while checkpoints were written to it."""


@pytest.mark.parametrize("library", FULL)
def test_a_full_disk_is_recognised_in_the_errors_of_libraries(library: str, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    with pytest.raises(NoSpace, match="checkpoint-3 could not be written"), saving(checkpoint, lead=True):
        raise ValueError("serialisation failed") from FULL[library]
    assert not checkpoint.exists()


def test_a_checkpoint_that_was_changed_is_not_whole(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        seal(checkpoint)
    assert last_whole(tmp_path) == tmp_path / "checkpoint-8"
    (tmp_path / "checkpoint-8" / "model.safetensors").write_bytes(b"weig")
    assert not is_whole(tmp_path / "checkpoint-8")
    assert last_whole(tmp_path) == tmp_path / "checkpoint-6"
    prune(tmp_path, best=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
