"""Each kind of step is a command of its own, with the checks, the record and the card that it has in a recipe."""

import json
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from hybrid_llm.cli import steps as commands
from hybrid_llm.cli.arguments import Group
from hybrid_llm.cli.models import MODELS
from hybrid_llm.cli.options import options_of
from hybrid_llm.core.fields import Key, ListOf, Table, Text, Whole, key, table
from hybrid_llm.prepare.recipe.alone import run_step
from hybrid_llm.prepare.recipe.document import read_recipe, step_table
from hybrid_llm.prepare.recipe.runner import run_recipe
from hybrid_llm.prepare.step import Makes, Outcome, Work
from hybrid_llm.prepare.steps import STEPS, register_step


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `hybrid-llm models mix` in a folder of its own: code, output and errors."""
    from hybrid_llm.cli.main import main

    monkeypatch.chdir(tmp_path)
    with_mix = Group(about="x", commands={**MODELS.commands, "mix": ("hybrid_llm.cli.steps:mix", "")}, examples=())
    monkeypatch.setattr("hybrid_llm.cli.models.MODELS", with_mix)

    def call(*words):
        capsys.readouterr()
        code = main(["models", "mix", *map(str, words)])
        return int(code), *capsys.readouterr()

    return call


def test_options_are_read_as_in_a_recipe_and_leave_what_a_recipe_leaves(run, tmp_path):
    (tmp_path / "given.txt").write_text("x")
    code, out, _ = run(
        "--models", "given.txt", "--text", "yes", "--score", "0.25", "--loud", "--out", "made/it", "--json"
    )
    assert code == 0
    (found,) = json.loads(out)
    assert found["folder"] == "made/it"
    record = json.loads((tmp_path / "made" / "it" / "step.json").read_text())
    assert record["options"] | {"text": "yes", "score": 0.25, "loud": True} == record["options"]
    card = json.loads((tmp_path / "made" / "it" / "card.json").read_text())
    assert card["licences"] == {"given.txt": "unknown"}
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["it"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "warm"], "--score: `warm` is not a number of at least 0"),
        (["--models", "nowhere"], "--models: there is no file or folder `nowhere`"),
        (["--fail", "vale"], r"--fail: `vale` is not .*did you mean `value`\?"),
        (["--floors", "score"], "--floors: `score` is not NAME=VALUE"),
        (["--floors", "score=high"], "--floors: `high` is not a number"),
        (["--models", "hf:org/name"], "--models: `hf:org/name` is on a network"),
    ],
)
def test_a_wrong_value_is_a_wrong_usage_that_names_the_option(run, tmp_path, words, message):
    code, _, err = run(*words, "--out", "made")
    assert code == 2
    assert re.search(message, err, re.DOTALL), err
    assert not (tmp_path / "made").exists()


def test_a_missing_key_is_named(capsys):
    from hybrid_llm.cli.main import main

    assert main(["models", "fetch", "--out", "x"]) == 2
    assert "`source` is missing" in capsys.readouterr().err


def test_the_same_command_again_does_nothing_and_another_one_does_not_overwrite(run, tmp_path, ran):
    assert run("--text", "a", "--out", "made")[0] == 0
    code, out, _ = run("--text", "a", "--out", "made")
    assert (code, "up to date" in out, len(ran)) == (0, True, 1)
    code, _, err = run("--text", "b", "--out", "made")
    assert code == 3
    assert "made is there already, and is not what this makes (`text` has changed)" in err
    assert run("--text", "b", "--out", "made", "--force")[0] == 0
    assert json.loads((tmp_path / "made" / "step.json").read_text())["options"]["text"] == "b"


def test_force_replaces_an_empty_folder_and_results_of_steps_and_nothing_else(run, tmp_path, ran):
    (tmp_path / "mine").mkdir()
    assert run("--text", "a", "--out", "mine")[0] == 3
    assert run("--text", "a", "--out", "mine", "--force")[0] == 0
    (tmp_path / "mine" / "step.json").write_text("torn")
    assert run("--text", "a", "--out", "mine", "--force")[0] == 0
    ran.clear()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("x")
    (tmp_path / "letter").write_text("x")
    for name in ("thesis", "letter"):
        code, _, err = run("--text", "a", "--out", name, "--force")
        assert (code, ran) == (3, [])
        assert re.search(f"{name} is there already and was not made by a step.*Choose another folder", err, re.DOTALL)
    assert (tmp_path / "thesis" / "chapter").read_text() == (tmp_path / "letter").read_text() == "x"


def test_a_step_that_fails_without_a_checkpoint_leaves_nothing(run, tmp_path):
    assert run("--fail", "value", "--out", "made")[0] != 0
    assert [path.name for path in tmp_path.iterdir() if "made" in path.name] == []


def test_a_floor_on_the_command_line_is_held(run):
    code, _, err = run("--score", "0.4", "--floors", "score=0.5", "--out", "made")
    assert code == 1
    assert "step `made`: score is 0.4, under its floor of 0.5" in err


@pytest.mark.parametrize("kind", STEPS.names())
def test_every_kind_has_a_command_with_an_option_for_each_key(kind):
    assert commands._command(kind).about
    flags = [option.flag for option in options_of(step_table(kind))]
    assert len(flags) == len(set(flags))
    assert not {"--out", "--json", "--force", "--help"} & set(flags)
    home, _ = MODELS.commands[kind]
    assert kind in commands.KINDS or not home.startswith("hybrid_llm.cli.steps:"), "add a line for the overview"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Writes its name."""

    makes: ClassVar[Makes] = Makes.REPORT

    def run(self, work: Work) -> Outcome:
        """Write `name`."""
        (work.out / "name").write_text(work.name)
        return Outcome()


def test_a_step_knows_its_name_in_a_recipe_and_alone(recipe_file, tmp_path):
    register_step("named", Named)
    recipe = read_recipe(recipe_file("mine: {kind: named}"))
    run_recipe(recipe, tmp_path / "out")
    run_step(replace(recipe.steps["mine"], name="alone"), tmp_path / "alone", progress=lambda what, share: None)
    assert [(tmp_path / name / "name").read_text() for name in ("out/mine", "alone")] == ["mine", "alone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """LoRA."""

    rank: int = key(Whole(1), "Rank.", default=8)
    targets: tuple[str, ...] = key(ListOf(Text()), "Layers.", default=())


def test_keys_of_a_table_in_a_table_are_options_with_its_name_before_theirs():
    keys = (Key("base", Text(), "The base."), Key("lora", table(Lora, "lora"), "LoRA."))
    outer = Table(title="outer", about="", keys=keys, make=lambda found: found)
    assert [option.flag for option in options_of(outer)] == ["--base", "--lora-rank", "--lora-targets"]
