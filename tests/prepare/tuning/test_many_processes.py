"""Several processes learn what one learns, divided or not; one that is killed ends the training with a typed error."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.tuning.checkpoints import last_whole
from hybrid_llm.prepare.tuning.failures import TrainingFailed
from hybrid_llm.prepare.tuning.settings import Launch
from tests.prepare.tuning.samples import Samples, curve, tune

pytestmark = pytest.mark.slow
TOLERANCE = 1e-4
"""Relative: two processes add the same numbers in another order, in single precision."""


@pytest.fixture(scope="module")
def alone(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    tune(samples.decoder, samples.data(DataFormat.CHAT), folder, accumulate=2)
    return folder


def _same(folder: Path, alone: Path) -> None:
    found, expected = curve(folder), curve(alone)
    for (step, loss), (known_step, known) in zip(found["train"], expected["train"], strict=True):
        assert step == known_step
        assert loss == pytest.approx(known, rel=TOLERANCE)
    assert found["after"]["loss"] == pytest.approx(expected["after"]["loss"], rel=TOLERANCE)


def test_two_processes_learn_what_one_learns_though_one_of_them_is_killed(samples: Samples, tmp_path: Path) -> None:
    """They weigh prompts and orthogonalise as one does, too."""
    killed = []

    def kill(what: str, share: float) -> None:
        workers = [each for each in psutil.Process().children(recursive=True) if "PLAN" not in each.name()]
        workers = [each for each in workers if "hybrid_llm.prepare.tuning.worker" in each.cmdline()]
        if last_whole(tmp_path / "two" / "scratch" / "run") and workers and not killed:
            killed.append(workers[-1].pid)
            os.kill(workers[-1].pid, signal.SIGKILL)

    options = {"optimiser": "muon", "prompt_weight": 0.2, "packing": True, "max_length": 64, "batch": 2, "steps": 4}
    options["every"] = 2
    model, data = samples.decoder, samples.data(DataFormat.CHAT)
    tune(model, data, tmp_path / "alone", **options)
    options["launch"] = Launch(processes=2)
    with pytest.raises(TrainingFailed, match=r"process \d of 2 was ended by signal 9, .* run again"):
        tune(model, data, tmp_path / "two", progress=kill, **options)
    assert killed
    tune(model, data, tmp_path / "two", **options)
    _same(tmp_path / "two", tmp_path / "alone")


def test_two_processes_with_a_part_of_the_weights_each_learn_what_one_learns(
    samples: Samples, alone: Path, tmp_path: Path
) -> None:
    launch = Launch(processes=2, sharding="full")
    tune(samples.decoder, samples.data(DataFormat.CHAT), tmp_path, launch=launch, accumulate=2)
    _same(tmp_path, alone)


def test_an_error_of_a_process_arrives_as_it_is(samples: Samples, tmp_path: Path) -> None:
    options = {"learning_rate": 1e9, "clip": 1e9, "steps": 60, "every": 60, "launch": Launch(processes=2)}
    with pytest.raises(TrainingFailed, match="lower `learning_rate`"):
        tune(samples.decoder, samples.data(DataFormat.CHAT), tmp_path, **options)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'ray[train]'")
def test_processes_of_ray_learn_what_one_learns(samples: Samples, alone: Path, tmp_path: Path) -> None:
    launch = Launch(processes=2, ray="local")
    tune(samples.decoder, samples.data(DataFormat.CHAT), tmp_path, launch=launch, accumulate=2)
    _same(tmp_path, alone)
