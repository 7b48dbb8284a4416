"""`tune-private`: learns within its budget, goes on after a kill as if nothing had happened, and refuses the rest."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFolder, DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.privacy.accounting import Accountant, Schedule, epsilon
from hybrid_llm.prepare.privacy.step import TunePrivate
from hybrid_llm.prepare.step import Input, Outcome, Work
from tests.prepare.privacy import tiny

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")

STEP = TunePrivate(
    model=Input("model"),
    data=Input("data"),
    target_epsilon=8.0,
    accountant=Accountant.RDP,
    randomness="seeded",
    batch=50,
    epochs=2,
    learning_rate=5e-3,
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "labelled"
    splits = {"train": tiny.labelled(400, 1, meaning=True), "validation": tiny.labelled(100, 2, meaning=True)}
    return tiny.data(folder, DataFormat.LABELLED, **splits).path


def run(step: TunePrivate, model: Path, data: Path, folder: Path, **options: Any) -> Outcome:
    out, scratch = folder / "out", folder / "scratch"
    for each in (out, scratch):
        each.mkdir(parents=True, exist_ok=True)
    inputs = {step.model: model, step.data: data}
    return step.run(Work(out=out, scratch=scratch, inputs=inputs, seed=5, **options))


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "out" / "model.safetensors")


def test_a_classifier_learns_within_its_budget(encoder: Path, records: Path, tmp_path: Path) -> None:
    outcome = run(replace(STEP, epochs=12), encoder, records, tmp_path)
    assert outcome.metrics["accuracy"] > 0.75 > outcome.before["accuracy"]
    privacy = outcome.card["privacy"]
    schedule = Schedule(units=400, batch=50, steps=96, delta=0.1 / 400)
    assert (privacy["steps"], privacy["sample_rate"], privacy["unit"]) == (96, 0.125, "record")
    assert privacy["epsilon"] == epsilon(Accountant.RDP, schedule, privacy["noise_multiplier"]) <= 8.0
    assert privacy["check_epsilon"] == epsilon(Accountant.PLD, schedule, privacy["noise_multiplier"])
    assert "base model" in privacy["not_covered"][0]
    assert HubFolder.open(tmp_path / "out").labels == tiny.LABELS


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_decoder_is_tuned_whole_or_by_lora(method: str, tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", DataFormat.TEXT, train=tiny.texts(120, 1), validation=tiny.texts(20, 2))
    step = replace(STEP, method=method, batch=40, epochs=4, clipping="ghost" if method == "lora" else "per-sample")
    outcome = run(step, tiny.decoder(tmp_path / "model"), data.path, tmp_path)
    assert outcome.metrics["loss"] < outcome.before["loss"]
    assert outcome.card["training"]["trained_weights"] > 0
    assert HubFolder.open(tmp_path / "out").kind is ModelKind.CAUSAL


def test_an_adapter_can_be_left_apart(tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", DataFormat.TEXT, train=tiny.texts(60, 1))
    model = tiny.decoder(tmp_path / "model")
    run(replace(STEP, method="lora", merge=False, batch=30, epochs=1), model, data.path, tmp_path)
    assert (tmp_path / "out" / "adapter_config.json").is_file()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert HubFolder.open(tmp_path / "out", base=model).model(ModelKind.CAUSAL) is not None


def test_a_person_is_a_unit_where_the_data_says_whose_a_record_is(encoder: Path, records: Path, tmp_path: Path) -> None:
    outcome = run(replace(STEP, unit="person", batch=10), encoder, records, tmp_path)
    privacy = outcome.card["privacy"]
    assert (privacy["units"], privacy["unit"], privacy["clipping"]) == (40, "person", "per unit")
    with pytest.raises(ConfigError, match=r"record 1 of the split `train` .* has no key 'owner'"):
        run(replace(STEP, unit="owner"), encoder, records, tmp_path)


class Interrupted(Exception):
    """Stands for a kill."""


def test_going_on_equals_no_interruption(encoder: Path, records: Path, tmp_path: Path) -> None:
    step = replace(STEP, every=4)
    run(step, encoder, records, tmp_path / "whole")

    def stop(what: str, share: float) -> None:
        if share > 0.6:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(step, encoder, records, tmp_path / "parts", progress=stop)
    outcome = run(step, encoder, records, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert outcome.card["privacy"]["steps"] == 16


def test_secret_noise_is_the_same_after_a_kill(encoder: Path, records: Path, tmp_path: Path) -> None:
    """A process that is killed for real: both runs go through the same steps, since the key outlives the kill."""
    command = [sys.executable, "-m", "tests.prepare.privacy.killed", str(encoder), str(records), str(tmp_path)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "scratch" / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    key = (tmp_path / "scratch" / "noise.key").read_bytes()
    run(replace(STEP, randomness="secure", every=2), encoder, records, tmp_path)
    assert (tmp_path / "scratch" / "noise.key").read_bytes() == key
    # The numbers of the steps come from the key alone, so a run with it and without a kill gives the same weights.
    (tmp_path / "again" / "scratch").mkdir(parents=True)
    (tmp_path / "again" / "scratch" / "noise.key").write_bytes(key)
    run(replace(STEP, randomness="secure", every=2), encoder, records, tmp_path / "again")
    once, again = weights(tmp_path), weights(tmp_path / "again")
    # Processes may have other numbers of threads, and add in another order; other noise would differ by far more.
    assert all(torch.allclose(once[name], again[name], rtol=0.0, atol=1e-5) for name in once)


def test_a_checkpoint_of_another_plan_is_not_gone_on_from(encoder: Path, records: Path, tmp_path: Path) -> None:
    run(replace(STEP, every=4), encoder, records, tmp_path)
    with pytest.raises(ConfigError, match="spend more than its budget"):
        run(replace(STEP, every=4, target_epsilon=2.0), encoder, records, tmp_path)
    (tmp_path / "scratch" / "checkpoint.pt").write_bytes(b"half a checkpoint")
    with pytest.raises(ConfigError, match="damaged"):
        run(replace(STEP, every=4), encoder, records, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 500}, "batch of 500 is larger than the data, 400"),
        ({"delta": 0.01}, "not below 1/400"),
        ({"method": "lora", "lora_targets": ("nothing",)}, "name layers that the model has"),
    ],
)
def test_what_cannot_be_private_is_refused(
    change: dict[str, Any], message: str, encoder: Path, records: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(replace(STEP, **change), encoder, records, tmp_path)


def test_blocks_in_which_records_are_mixed_are_refused(encoder: Path, tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", DataFormat.BLOCKS, train=[{"input_ids": [1, 2, 3]}])
    with pytest.raises(ConfigError, match="give the data before it was packed"):
        run(STEP, encoder, data.path, tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [({"text": "bab"}, "has no key 'label'"), ({"text": "bab", "label": "maybe"}, "label that data.json does not")],
)
def test_a_record_without_a_known_label_is_refused(
    record: dict[str, str], message: str, encoder: Path, tmp_path: Path
) -> None:
    rows = [*tiny.labelled(100, 1, meaning=True), record]
    data = tiny.data(tmp_path / "data", DataFormat.LABELLED, train=rows)
    with pytest.raises(ConfigError, match=f"record 101 of the split `train` .*{message}"):
        run(STEP, encoder, data.path, tmp_path)


def test_an_empty_split_is_refused(encoder: Path, tmp_path: Path) -> None:
    data = tiny.data(tmp_path / "data", DataFormat.LABELLED, train=[])
    assert DataFolder.open(data.path).card.splits == {"train": 0}
    with pytest.raises(ConfigError, match="is empty"):
        run(STEP, encoder, data.path, tmp_path)
