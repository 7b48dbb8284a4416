"""What pretraining needs of `tune`: packed rows, weights of prompts, Muon, and a rate that holds before it falls."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.tuning.conversations import IGNORED
from hybrid_llm.prepare.tuning.packing import packed
from hybrid_llm.prepare.tuning.rows import Encoder
from tests.prepare.tuning.children import run_in_child
from tests.prepare.tuning.samples import Samples, curve, tune, weights

MUON = {"optimiser": "muon", "matrix_rate": 0.02, "weight_decay": 0.01}
WHOLE = {**MUON, "packing": True, "prompt_weight": 0.1, "schedule": "wsd", "decay": 0.5, "batch": 2, "max_length": 64}
ROWS = st.lists(st.integers(2, 20), min_size=1, max_size=60)


def _rows(sizes: list[int]) -> list[dict[str, list[int]]]:
    return [{"input_ids": [at] * size, "labels": [IGNORED] + [at] * (size - 1)} for at, size in enumerate(sizes)]


@given(ROWS, st.integers(20, 64), st.integers(0, 9))
def test_packing_loses_nothing_cuts_nothing_and_fits(sizes: list[int], length: int, seed: int) -> None:
    found = list(packed(_rows(sizes), length, seed))
    assert Counter(at for row in found for at in row["input_ids"]) == Counter(dict(enumerate(sizes)))
    for row in found:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= length
        begins = [at for at, position in enumerate(row["position_ids"]) if position == 0]
        assert all(row["labels"][at] == IGNORED for at in begins)
        assert len(begins) == len(set(row["input_ids"]))
    assert found == list(packed(_rows(sizes), length, seed))


@given(ROWS)
def test_packed_rows_are_nearly_full(sizes: list[int]) -> None:
    """Best fit: any two rows that were open together are together longer than one row."""
    found = sorted(len(row["input_ids"]) for row in packed(_rows(sizes), 40, 0))
    assert len(found) == 1 or found[0] + found[1] > 40


def test_a_packed_conversation_sees_itself_alone(samples: Samples) -> None:
    """Its logits are those that it has in a row of its own."""
    import torch

    from hybrid_llm.prepare.tuning.training import Collator

    model = HubFolder.open(samples.decoder).model(ModelKind.CAUSAL)
    rng = random.Random(0)
    rows = [
        {"input_ids": (ids := [rng.randrange(9, 900) for _ in range(size)]), "labels": [IGNORED, *ids[1:]]}
        for size in (7, 4, 11)
    ]
    (row,) = packed(rows, 24, 0)
    batch = Collator(0, ModelKind.CAUSAL)([row, {name: values[:5] for name, values in row.items()}])
    with torch.inference_mode():
        together = model(**batch, use_cache=False).logits[0]
        for each in rows:
            alone = model(input_ids=torch.tensor([each["input_ids"]])).logits[0]
            start = next(
                at for at in range(len(row["input_ids"])) if row["input_ids"][at : at + 3] == each["input_ids"][:3]
            )
            assert float((together[start : start + len(alone)] - alone).abs().max()) < 1e-4


def test_packed_rows_are_measured_as_single_ones(samples: Samples, tmp_path: Path) -> None:
    data = samples.data(DataFormat.CHAT)
    found = [
        tune(samples.decoder, data, tmp_path / str(packing), steps=2, batch=2, max_length=64, packing=packing).before
        for packing in (False, True)
    ]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)


def test_prompts_weigh_as_much_as_the_option_says(samples: Samples) -> None:
    folder = HubFolder.open(samples.decoder)
    data = DataFolder.open(samples.data(DataFormat.CHAT))
    plain = Encoder(data=data, tokenizer=folder.tokenizer(), folder=folder.path, length=64)
    weighted = Encoder(data=data, tokenizer=folder.tokenizer(), folder=folder.path, length=64, prompt_weight=0.25)
    for one, other in zip(plain.rows("train"), weighted.rows("train"), strict=True):
        assert other["labels"] == [IGNORED, *one["input_ids"][1:]]
        assert other["weights"] == [0.0] + [0.25 if label == IGNORED else 1.0 for label in one["labels"][1:]]
    assert all("weights" not in row for row in weighted.rows("test"))


def test_the_weighted_loss_is_the_mean_over_the_step_in_however_many_parts(samples: Samples, tmp_path: Path) -> None:
    data = samples.data(DataFormat.CHAT)
    curves = [
        _losses(samples, data, tmp_path / str(parts), prompt_weight=0.3, accumulate=parts, packing=False)
        for parts in (1, 4)
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
    assert curves[0] != pytest.approx(_losses(samples, data, tmp_path / "none", packing=False), rel=1e-2)


def test_weights_of_one_are_the_loss_of_all_tokens(samples: Samples, tmp_path: Path) -> None:
    """The first loss is that of the model as it was, computed here by hand."""
    import torch

    data = samples.data(DataFormat.CHAT)
    found = _losses(samples, data, tmp_path, prompt_weight=1.0, batch=64, steps=1, packing=False)[0]
    folder = HubFolder.open(samples.decoder)
    model, nats, count = folder.model(ModelKind.CAUSAL), 0.0, 0
    for row in Encoder(data=DataFolder.open(data), tokenizer=folder.tokenizer(), folder=folder.path, length=64).rows(
        "train"
    ):
        ids = torch.tensor(row["input_ids"])
        with torch.inference_mode():
            logits = model(input_ids=ids.unsqueeze(0)).logits[0, :-1].log_softmax(-1)
        nats -= float(logits.gather(1, ids[1:].unsqueeze(1)).sum())
        count += len(ids) - 1
    assert found == pytest.approx(nats / count, rel=1e-4)


def _losses(samples: Samples, data: Path, folder: Path, **options: Any) -> list[float]:
    tune(samples.decoder, data, folder, **{"steps": 3, "max_length": 64, **options})
    return [loss for _, loss in curve(folder)["train"]]


def test_muon_learns(samples: Samples, tmp_path: Path) -> None:
    outcome = tune(samples.decoder, samples.data(DataFormat.CHAT), tmp_path, **{**WHOLE, "steps": 16, "every": 8})
    assert outcome.metrics["perplexity"] < outcome.before["perplexity"] / 2
    assert outcome.card["training"]["optimiser"] == "muon"
    assert outcome.card["training"]["rows"]["train"]["conversations"] == 64


def test_the_rate_rises_holds_and_falls_to_zero(samples: Samples, tmp_path: Path) -> None:
    options = {"schedule": "wsd", "warmup": 0.2, "decay": 0.5, "steps": 20, "learning_rate": 1e-3, "every": 20}
    tune(samples.encoder, samples.data(DataFormat.LABELLED), tmp_path, **options)
    rates = [rate for _, rate in curve(tmp_path)["learning_rate"]]
    assert rates == sorted(rates[:4]) + [pytest.approx(1e-3)] * 6 + sorted(rates[10:], reverse=True)
    assert rates[-1] <= 1e-4


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_to_the_same_bytes(samples: Samples, tmp_path: Path) -> None:
    options = {"model": samples.decoder, "data": samples.data(DataFormat.CHAT, train=32), "steps": 8, **WHOLE}
    assert run_in_child(tmp_path / "whole", **options) == 0
    assert run_in_child(tmp_path / "killed", kill="step 6", **options) == -signal.SIGKILL
    assert run_in_child(tmp_path / "killed", **options) == 0
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "muon", "method": "lora"}, "`optimiser: muon` needs whole matrices"),
        ({"schedule": "wsd", "warmup": 0.3, "decay": 0.8}, "are more than all steps together"),
        ({"packing": True}, "`packing` and `prompt_weight` are for conversations"),
        ({"prompt_weight": 0.1}, "`packing` and `prompt_weight` are for conversations"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, samples: Samples, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(samples.decoder, samples.data(DataFormat.TEXT), tmp_path, **options)
