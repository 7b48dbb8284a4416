"""A training that is killed at any moment goes on as if it had not been: the same losses, the same bytes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.tuning.checkpoints import last_whole, step_of
from tests.prepare.tuning.children import SAID, run_in_child
from tests.prepare.tuning.samples import Samples, curve, weights

pytestmark = pytest.mark.slow
KILLS = ("step 2", "step 7", "open trainer_state.json", "open .whole.json.partial")


def _same(folder: Path, whole: Path) -> None:
    assert curve(folder) == curve(whole)
    assert weights(folder) == weights(whole)


@pytest.fixture(scope="module")
def options(samples: Samples) -> dict[str, Any]:
    return {"model": samples.decoder, "data": samples.data(DataFormat.TEXT), "accumulate": 2, "batch": 4}


@pytest.fixture(scope="module")
def whole(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert run_in_child(folder, **options) == 0
    return folder


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_training_goes_on_to_the_same_bytes(
    kill: str, options: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    assert run_in_child(tmp_path, kill=kill, **options) == -signal.SIGKILL
    assert run_in_child(tmp_path, **options) == 0
    _same(tmp_path, whole)


def test_a_half_written_checkpoint_is_not_used(options: dict[str, Any], tmp_path: Path) -> None:
    assert run_in_child(tmp_path, kill="open trainer_state.json", **options) == -signal.SIGKILL
    run = tmp_path / "scratch" / "run"
    assert (run / "checkpoint-8" / "optimizer.pt").is_file()
    last = last_whole(run)
    assert last is not None
    assert step_of(last) == 4


def test_a_training_that_is_killed_again_and_again_ends_the_same(
    options: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    for step in (5, 6, 10):
        assert run_in_child(tmp_path, kill=f"step {step}", **options) == -signal.SIGKILL
    assert run_in_child(tmp_path, **options) == 0
    _same(tmp_path, whole)


def test_what_is_drawn_in_each_step_is_drawn_again(samples: Samples, tmp_path: Path) -> None:
    """The dropout of an adapter, and a head that is new."""
    kind = DataFormat.LABELLED
    options = {"model": samples.encoder, "data": samples.data(kind), "method": "lora", "lora_dropout": 0.3}
    assert run_in_child(tmp_path / "whole", **options) == 0
    assert run_in_child(tmp_path / "killed", kill="step 6", **options) == -signal.SIGKILL
    assert run_in_child(tmp_path / "killed", **options) == 0
    _same(tmp_path / "killed", tmp_path / "whole")


def test_early_stopping_counts_on(samples: Samples, tmp_path: Path) -> None:
    """The loss of validation only rises at this rate: two evaluations after the first the training ends."""
    options = {
        "model": samples.decoder,
        "data": samples.data(DataFormat.CHAT),
        "learning_rate": 0.5,
        "schedule": "constant",
        "steps": 40,
        "every": 2,
        "early_stopping": 2,
    }
    assert run_in_child(tmp_path / "whole", **options) == 0
    ended = curve(tmp_path / "whole")["training"]["steps"]
    assert ended < 40
    assert run_in_child(tmp_path / "killed", kill=f"step {ended - 1}", **options) == -signal.SIGKILL
    assert run_in_child(tmp_path / "killed", **options) == 0
    _same(tmp_path / "killed", tmp_path / "whole")


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(options: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    assert run_in_child(tmp_path, kill="full 6", **options) == 9
    assert (tmp_path / SAID).read_text(encoding="utf-8").startswith("NoSpace: the disk is full: checkpoint-8 could not")
    run = tmp_path / "scratch" / "run"
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-4"]
    assert run_in_child(tmp_path, **options) == 0
    _same(tmp_path, whole)
