"""Kills, full disks and a second process leave nothing half-written, and the next run goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import run_recipe

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = (sys.executable, "-m", "tests.prepare.recipe.steps")
CHAIN = (
    "a: {kind: mix, text: a}",
    "b: {kind: mix, models: [a], pause_s: 60}",
    "c: {kind: mix, models: [b]}",
)
DEADLINE_S = 60


def begun(recipe, out):
    """A run that waits in the middle of step b."""
    process = subprocess.Popen([*PROGRAM, recipe, out], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until = time.monotonic() + DEADLINE_S
    while not list((out / ".scratch").rglob("checkpoint")):
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    return process


def finished(recipe, out, *limit):
    command = [*PROGRAM, str(recipe), str(out), *map(str, limit)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def content(out):
    return {path.relative_to(out): path.read_text() for path in out.rglob("mix.bin")}


def uninterrupted(recipe_file, tmp_path):
    path = recipe_file(*(line.replace("pause_s: 60", "pause_s: 0") for line in CHAIN))
    run_recipe(read_recipe(path), tmp_path / "whole")
    return content(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_goes_on_with_its_checkpoint(recipe_file, tmp_path, number):
    expected = uninterrupted(recipe_file, tmp_path)
    recipe, out = recipe_file(*CHAIN), tmp_path / "out"
    process = begun(recipe, out)
    assert (out / "a" / "step.json").is_file()
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE_S)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert b"interrupted: run it again to go on" in err
        assert b"Traceback" not in err
    assert not (out / "b").exists()
    done = finished(recipe, out)  # 60 seconds would be over the deadline
    assert done.returncode == 0, done.stderr
    assert content(out) == expected
    assert sorted(path.name for path in out.iterdir()) == [".run.lock", "a", "b", "c"]


def test_one_process_at_a_time_runs_in_a_folder(recipe_file, tmp_path):
    recipe, out = recipe_file(*CHAIN), tmp_path / "out"
    process = begun(recipe, out)
    try:
        done = finished(recipe, out)
        assert done.returncode == 3
        assert f"another process runs a recipe in {out}: wait for it" in done.stderr
    finally:
        process.kill()
        process.communicate()


def test_a_full_disk_is_a_typed_error_and_the_next_run_goes_on(recipe_file, tmp_path):
    recipe, out = recipe_file("a: {kind: mix}", "b: {kind: mix, models: [a], megabytes: 2}"), tmp_path / "out"
    done = finished(recipe, out, 1 << 20)
    assert done.returncode == 1
    assert "File too large: free some space, or choose another folder with --out" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "b").exists()
    assert not (out / ".staging").exists()
    assert finished(recipe, out).returncode == 0
    assert (out / "b" / "weights.bin").stat().st_size == 2 << 20


def test_a_folder_that_cannot_be_made_is_a_typed_error(recipe_file, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"cannot be written .*choose another folder with --out"):
        run_recipe(read_recipe(recipe_file("a: {kind: mix}")), tmp_path / "file" / "out")


def test_a_failed_replacement_leaves_the_older_result(recipe_file, tmp_path):
    out = tmp_path / "out"
    run_recipe(read_recipe(recipe_file("a: {kind: mix}")), out)
    before = content(out)
    with pytest.raises(ConfigError):
        run_recipe(read_recipe(recipe_file("a: {kind: mix, fail: memory}")), out)
    assert content(out) == before


def test_what_a_killed_run_leaves_is_the_users_alone_and_goes_once_its_step_is_gone(recipe_file, tmp_path):
    recipe, out = recipe_file(*CHAIN), tmp_path / "out"
    process = begun(recipe, out)
    process.kill()
    process.communicate()
    (left,) = (out / ".scratch").glob("b/*")
    assert left.stat().st_mode & 0o77 == (out / ".staging" / "b").stat().st_mode & 0o77 == 0
    run_recipe(read_recipe(recipe_file("a: {kind: mix, text: a}")), out)
    assert sorted(path.name for path in out.iterdir()) == [".run.lock", "a"]


def test_a_result_that_is_there_clears_away_what_another_run_left(recipe_file, tmp_path):
    recipe, out = recipe_file("a: {kind: mix, text: a}"), tmp_path / "out"
    run_recipe(read_recipe(recipe), out)
    (out / ".scratch" / "a" / "0123").mkdir(parents=True)
    (out / ".scratch" / "a" / "0123" / "checkpoint").write_text("of other options")
    (result,) = run_recipe(read_recipe(recipe), out)
    assert not result.is_due
    assert not (out / ".scratch").exists()
