"""Each step runs once, after what it reads, and again only where something that determines its result has changed."""

import json
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.recipe.document import parse_recipe, read_recipe
from hybrid_llm.prepare.recipe.execution import StepFailed
from hybrid_llm.prepare.recipe.graph import ancestors
from hybrid_llm.prepare.recipe.record import breaches
from hybrid_llm.prepare.recipe.runner import UP_TO_DATE, plan_recipe, run_recipe
from tests.prepare.recipe import steps

NAMES = "abcdef"


def text_of(graph, texts):
    """A recipe in which each step reads those of *graph*."""
    lines = [f"  {name}: {{kind: mix, models: [{', '.join(graph[name])}], text: t{texts[name]}}}" for name in graph]
    return "\n".join(["version: 1", "name: demo", "steps:", *lines])


@st.composite
def graphs(draw):
    """Steps, each with the ones that it reads, in any order of the file."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    reads = {name: draw(st.sets(st.sampled_from(names[:at]))) if at else set() for at, name in enumerate(names)}
    return {name: sorted(reads[name]) for name in draw(st.permutations(names))}


def files_of(out):
    return {path.relative_to(out): path.read_text() for path in out.rglob("mix.bin")}


@settings(max_examples=20)
@given(graphs(), st.data())
def test_each_step_runs_once_after_its_inputs_and_a_change_runs_what_reads_it(graph, data):
    with tempfile.TemporaryDirectory() as folder:
        out, texts = Path(folder) / "out", dict.fromkeys(graph, "0")
        steps.RAN.clear()
        first = run_recipe(parse_recipe(text_of(graph, texts), "r.yaml", Path(folder)), out)
        names = [one.name for one in first]
        assert sorted(names) == sorted(graph)
        assert all(names.index(parent) < names.index(name) for name in graph for parent in graph[name])
        assert len(steps.RAN) == len(graph)

        changed = data.draw(st.sampled_from(sorted(graph)))
        recipe = parse_recipe(text_of(graph, {**texts, changed: "1"}), "r.yaml", Path(folder))
        expected = {changed, *(name for name in graph if changed in ancestors(recipe, name))}
        assert {one.name for one in plan_recipe(recipe, out) if one.is_due} == expected
        assert {one.name for one in run_recipe(recipe, out) if one.is_due} == expected
        assert not any(one.is_due for one in run_recipe(recipe, out))


@settings(max_examples=15)
@given(graphs(), st.data())
def test_a_run_that_ends_after_any_step_and_goes_on_leaves_the_files_of_one_that_did_not(graph, data):
    with tempfile.TemporaryDirectory() as folder:
        recipe = parse_recipe(text_of(graph, dict.fromkeys(graph, "0")), "r.yaml", Path(folder))
        whole, parts = Path(folder) / "whole", Path(folder) / "parts"
        run_recipe(recipe, whole)
        for name in data.draw(st.permutations(sorted(graph))):
            run_recipe(recipe, parts, only=name)
        steps.RAN.clear()
        assert not any(one.is_due for one in run_recipe(recipe, parts))
        assert steps.RAN == []
        assert files_of(whole) == files_of(parts)


def test_the_seed_and_the_content_of_a_path_determine_the_result_its_name_does_not(recipe_file, tmp_path):
    (tmp_path / "given.txt").write_text("x")
    path, out = recipe_file("a: {kind: mix, models: [./given.txt]}"), tmp_path / "out"
    run_recipe(read_recipe(path), out)

    path = recipe_file("a: {kind: mix, models: [./given.txt]}", head="version: 1\nname: demo\nseed: 7\n")
    (again,) = run_recipe(read_recipe(path), out)
    assert again.why == "the seed has changed"

    (tmp_path / "given.txt").write_text("y")
    (again,) = run_recipe(read_recipe(path), out)
    assert again.why == "`models` has changed"

    (tmp_path / "given.txt").rename(tmp_path / "other.txt")
    path.write_text(path.read_text().replace("given", "other"))
    (again,) = run_recipe(read_recipe(path), out)
    assert again.why == UP_TO_DATE


def test_a_file_and_the_names_in_a_folder_determine_the_result(recipe_file, tmp_path):
    source, given = tmp_path / "raw.csv", tmp_path / "given"
    source.write_text("x")
    given.mkdir()
    (given / "one").write_text("y")
    recipe = read_recipe(
        recipe_file("raw: {kind: fetch, source: ./raw.csv, as: data}", "a: {kind: mix, models: [./given]}")
    )
    run_recipe(recipe, tmp_path / "out")
    source.write_text("z")
    (given / "one").rename(given / "two")
    found = plan_recipe(recipe, tmp_path / "out")
    assert [one.why for one in found] == ["`source` has changed", "`models` has changed"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "the version of its kind has changed"),
        ({"depends": lambda _: {"the table of words": "2"}}, "the table of words has changed"),
    ],
)
def test_other_code_and_what_it_depends_on_make_a_result_stale(recipe_file, tmp_path, change, why):
    recipe, out = read_recipe(recipe_file("a: {kind: mix}")), tmp_path / "out"
    run_recipe(recipe, out)
    newer = replace(recipe.steps["a"], step=type("Newer", (steps.Mix,), change)())
    assert [one.why for one in plan_recipe(replace(recipe, steps={"a": newer}), out)] == [why]


def test_a_step_goes_on_from_its_own_checkpoint_and_from_no_other(recipe_file, tmp_path):
    """One that is there already is not waited for."""
    waited = []

    def run(options):
        waited.clear()
        recipe = read_recipe(recipe_file(f"a: {{kind: mix, pause_s: 0.001, {options}}}"))
        run_recipe(recipe, tmp_path / "out", report=lambda _step, what, _share: waited.append(what == "waiting"))

    for _ in range(2):
        with pytest.raises(StepFailed):
            run("fail: value")
    assert not any(waited)
    run("text: other")
    assert any(waited)


def test_no_library_asks_a_network_while_a_step_runs(recipe_file, tmp_path, monkeypatch):
    names, seen = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), []
    for name in names:
        monkeypatch.delenv(name, raising=False)

    def look(_step, what, _share):
        if what == "waiting":
            seen.append([os.environ.get(name) for name in names])

    run_recipe(read_recipe(recipe_file("a: {kind: mix, pause_s: 0.001}")), tmp_path / "out", report=look)
    assert seen == [["1"] * 3]
    assert not any(name in os.environ for name in names)


def test_a_step_that_comes_to_the_same_result_stops_there(recipe_file, tmp_path):
    """What reads it is up to date: it is known by the content of its inputs."""
    lines = "a: {kind: mix, pause_s: 0}", "b: {kind: mix, models: [a]}"
    run_recipe(read_recipe(recipe_file(*lines)), tmp_path / "out")
    recipe = read_recipe(recipe_file(lines[0].replace("0}", "0, score: 2}"), lines[1]))
    assert [one.is_due for one in run_recipe(recipe, tmp_path / "out")] == [True, False]


@pytest.mark.parametrize("tamper", ["modify", "remove", "add", "record"])
def test_a_finished_step_whose_files_were_changed_runs_again(recipe_file, tmp_path, tamper):
    recipe, out = read_recipe(recipe_file("a: {kind: mix}")), tmp_path / "out"
    run_recipe(recipe, out)
    before = files_of(out)
    file = out / "a" / "deep" / "mix.bin"
    match tamper:
        case "modify":
            file.write_text("x")
        case "remove":
            file.unlink()
        case "add":
            (out / "a" / "more.bin").write_bytes(b"x")
        case "record":
            (out / "a" / "step.json").write_text((out / "a" / "step.json").read_text().replace("mix.bin", "mux.bin"))
    (result,) = run_recipe(recipe, out)
    assert "was changed after it had run" in result.why or result.why == "its record cannot be read"
    assert files_of(out) == before
    assert not (out / "a" / "more.bin").exists()


def test_a_folder_that_no_step_has_made_is_not_replaced(recipe_file, tmp_path, ran):
    recipe, out = read_recipe(recipe_file("a: {kind: mix}", "b: {kind: mix, models: [a]}")), tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "b" / "chapter").write_text("x")
    for run in (run_recipe, plan_recipe):
        with pytest.raises(ConfigError, match="b is there already and was not made by a step"):
            run(recipe, out, force=["b"])
    assert ((out / "b" / "chapter").read_text(), ran) == ("x", [])
    (out / "b" / "chapter").unlink()
    assert len(run_recipe(recipe, out)) == 2


def test_only_and_force_choose_steps_and_unknown_ones_are_refused(recipe_file, tmp_path, ran):
    recipe = read_recipe(recipe_file("a: {kind: mix}", "b: {kind: mix, models: [a]}", "c: {kind: mix, text: c}"))
    out = tmp_path / "out"
    assert [one.name for one in run_recipe(recipe, out, only="b")] == ["a", "b"]
    ran.clear()
    run_recipe(recipe, out, only="b", force={"b"})
    assert ran == [("", "a")]
    with pytest.raises(ConfigError, match="no step `bb`: did you mean `b`"):
        run_recipe(recipe, out, only="bb")


def test_a_plan_writes_nothing_and_says_why(recipe_file, tmp_path):
    recipe = read_recipe(recipe_file("a: {kind: mix}", "b: {kind: mix, models: [a]}"))
    assert [one.why for one in plan_recipe(recipe, tmp_path / "out")] == ["it has no result yet", "`a` runs"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("value", StepFailed, r"step `a` failed: ValueError at recipe/steps.py:\d+$"),
        ("memory", ConfigError, "step `a` does not fit into the memory"),
        ("cuda", StepFailed, "RuntimeError"),
    ],
)
def test_whatever_a_step_raises_is_an_error_of_ours_that_quotes_no_data(recipe_file, tmp_path, how, kind, message):
    recipe = read_recipe(recipe_file("z: {kind: mix}", f"a: {{kind: mix, models: [z], fail: {how}}}"))
    with pytest.raises(kind, match=message) as caught:
        run_recipe(recipe, tmp_path / "out")
    assert "secret" not in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".run.lock", "z"]


def test_the_record_has_what_a_result_was_made_of(recipe_file, tmp_path):
    recipe = read_recipe(recipe_file("a: {kind: mix, text: warm}", "b: {kind: mix, models: [a], seed: 3}"))
    run_recipe(recipe, tmp_path / "out")
    first, second = (json.loads((tmp_path / "out" / name / "step.json").read_text()) for name in "ab")
    assert first["options"]["text"] == "warm"
    assert second["inputs"] == {"a": first["digest"]}
    assert second["seed"] == 3
    assert set(first["files"]) == {"deep/mix.bin"}
    assert (second["metrics"], second["before"]) == ({"score": 1.0}, {"score": 0.5})
    assert second["libraries"]["hybrid-llm"]
    cost = second["cost"]
    assert cost["seconds"] >= 0
    assert cost["peak_memory_mb"] > 1
    assert cost["energy"]["how"] in ("measured", "estimate")
    assert cost["energy"]["how"] == "measured" or "assumed" in cost["energy"]["by"]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("floors: {score: 0.9}", "step `a`: score is 0.7, under its floor of 0.9"),
        ("ceilings: {score: 0.5}", "step `a`: score is 0.7, over its ceiling of 0.5"),
        ("floors: {f1: 0.5}", "step `a` reports no `f1`, whose floor is 0.5"),
    ],
)
def test_a_metric_that_misses_its_bound_is_recorded_and_mends_without_a_run(recipe_file, tmp_path, bounds, message):
    out = tmp_path / "out"
    recipe = read_recipe(recipe_file(f"a: {{kind: mix, score: 0.7, {bounds}}}"))
    (result,) = run_recipe(recipe, out)
    assert list(map(str, result.record.breaches)) == [message]
    (result,) = run_recipe(read_recipe(recipe_file("a: {kind: mix, score: 0.7, floors: {score: 0.6}}")), out)
    assert not result.is_due
    assert result.record.breaches == ()
    assert json.loads((out / "a" / "step.json").read_text())["breaches"] == []


def test_a_metric_that_is_no_number_misses_every_bound():
    found = breaches("a", {"score": math.nan}, {"score": 0.5}, {"score": 0.5})
    assert [one.is_floor for one in found] == [True, False]
