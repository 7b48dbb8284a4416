"""`hybrid-llm models run` and `card`."""

import json
from dataclasses import dataclass
from typing import ClassVar

from hybrid_llm.cli.arguments import Group
from hybrid_llm.cli.main import main
from hybrid_llm.cli.models import MODELS
from hybrid_llm.prepare.step import Makes, Outcome, Work
from hybrid_llm.prepare.steps import register_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Reports what it counts."""

    makes: ClassVar[Makes] = Makes.REPORT

    def run(self, work: Work) -> Outcome:
        """Report three phases."""
        for what in ("checking its SHA-256", "step 1 of 2", "step 2 of 2, loss 0.5"):
            work.progress(what, 0.0)
        return Outcome(metrics={"records": 10_662.0, "share": 0.12345})


def test_a_recipe_runs_from_one_command_and_then_nothing_is_to_do(recipe_file, tmp_path, capsys):
    path, out = recipe_file("a: {kind: mix}", "b: {kind: mix, models: [a]}"), tmp_path / "out"
    assert main(["models", "run", str(path), "--out", str(out)]) == 0
    assert "score 0.5 -> 1" in capsys.readouterr().out
    assert main(["models", "run", str(path), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["due"]) for one in found] == [("a", False), ("b", False)]
    assert found[1]["folder"] == str(out / "b")


def test_a_log_has_one_line_for_what_is_counted_and_whole_names(recipe_file, tmp_path, capsys, monkeypatch):
    register_step("counting", Counting)
    commands = {**MODELS.commands, "counting": ("hybrid_llm.cli.steps:counting", "")}
    monkeypatch.setattr("hybrid_llm.cli.models.MODELS", Group(about="x", commands=commands, examples=()))
    main(["models", "run", str(recipe_file("a: {kind: counting}")), "--out", str(tmp_path / "out")])
    table, shown = capsys.readouterr()
    assert "records 10,662, share 0.1235" in table
    assert (shown.count("checking its SHA-256\n"), shown.count("a: step\n")) == (1, 1)
    main(["models", "counting", "--out", str(tmp_path / "alone")])
    shown = capsys.readouterr().err
    assert (shown.count("checking its SHA-256\n"), shown.count("alone: step\n")) == (1, 1)


def test_a_missed_floor_ends_the_run_with_a_message_that_names_it(recipe_file, tmp_path, capsys):
    path = recipe_file("a: {kind: mix, score: 0.7, floors: {score: 0.9}}", "b: {kind: mix, models: [a]}")
    assert main(["models", "run", str(path), "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "step `a`: score is 0.7, under its floor of 0.9" in shown.err
    assert main(["models", "card", str(tmp_path / "out" / "b"), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["publishable"] is False
    assert card["refusals"] == ["step `a`: score is 0.7, under its floor of 0.9"]


def test_a_dry_run_lists_what_is_to_do(recipe_file, tmp_path, capsys):
    path = recipe_file("a: {kind: mix}")
    assert main(["models", "run", str(path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "to run: it has no result yet" in capsys.readouterr().out


def test_a_wrong_recipe_ends_with_its_line_and_no_trace(recipe_file, capsys):
    path = recipe_file("a: {kind: mux}")
    assert main(["models", "run", str(path)]) == 3
    assert f"{path}:4:13: `mux` is not a kind of step" in capsys.readouterr().err


def test_a_folder_that_no_recipe_made_has_no_card(tmp_path, capsys):
    assert main(["models", "card", str(tmp_path)]) == 3
    assert "was not made by a recipe" in capsys.readouterr().err


def test_a_command_that_misspells_what_it_reads_names_the_folder_that_was_meant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").mkdir()
    assert main(["models", "prepare-data", "--sources", "revews", "--out", "out"]) == 2
    shown = capsys.readouterr().err
    assert "there is no file or folder `revews`" in shown
    assert "did you mean `reviews`?" in shown
    assert main(["models", "prepare-data", "--sources", "nowhere/data", "--out", "out"]) == 2
    assert "hint" not in capsys.readouterr().err


def test_the_help_of_a_step_shows_defaults_as_they_are_written(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    main(["models", "prepare-data", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "default: train=0.9 validation=0.05 test=0.05" in shown
    assert "(default: yes)" in shown


def test_the_overview_lists_steps_in_the_order_of_the_work(capsys):
    main(["models", "--help"])
    names = [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ") and line[4] != " "
    ]
    work = ["fetch", "prepare-data", "tune", "quantise", "evaluate", "sign", "publish", "pull", "promote", "rollback"]
    assert [name for name in names if name in work] == work
