"""Cards state what records have: licences are never invented, and what misses a bound is not published."""

import json

import pytest
import yaml

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.folder import verify_manifest
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.execution import StepFailed
from hybrid_llm.prepare.recipe.licences import combined, hub_identifier
from hybrid_llm.prepare.recipe.runner import run_recipe

EMBEDDED = embedded_model()
LINES = (
    "words: {kind: words, text: w}",
    "a: {kind: mix, data: words}",
    "b: {kind: mix, models: [a], score: 0.8}",
    "other: {kind: mix, text: o}",
    "report: {kind: judge, models: [b], score: 0.75}",
)


def card_of(out, name):
    return json.loads((out / name / "card.json").read_text())


def test_a_card_has_the_lineage_figures_reports_and_cost(recipe_file, tmp_path):
    head = "version: 1\nname: demo\nabout: Mixes of words.\n"
    run_recipe(read_recipe(recipe_file(*LINES, head=head)), tmp_path / "out")
    card = card_of(tmp_path / "out", "b")
    assert card["name"] == "demo/b"
    assert [one["step"] for one in card["lineage"]] == ["words", "a", "b"]
    assert card["lineage"][-1]["metrics"] == {"score": 0.8}
    assert card["lineage"][-1]["before"] == {"score": 0.5}
    assert card["evaluations"] == {"report": {"score": 0.75}}
    assert card["sections"]["parameters"] == {"words": 7, "a": 7, "b": 7}
    assert card["publishable"] is True
    assert card["seconds"] == pytest.approx(sum(one["cost"]["seconds"] for one in card["lineage"]), abs=1e-3)
    page = (tmp_path / "out" / "b" / "README.md").read_text()
    _, metadata, body = page.split("---\n", 2)
    assert yaml.safe_load(metadata) | {"license": "unknown", "datasets": ["words"]} == yaml.safe_load(metadata)
    assert "| b | score | 0.5 | 0.8 |" in body
    assert "| report | score |  | 0.75 |" in body
    assert not (tmp_path / "out" / "words" / "card.json").exists()


def test_a_report_that_misses_a_floor_makes_its_model_unpublishable_and_no_other(recipe_file, tmp_path):
    lines = [*LINES[:-1], "report: {kind: judge, models: [b], score: 0.75, floors: {score: 0.9}}"]
    run_recipe(read_recipe(recipe_file(*lines)), tmp_path / "out")
    found = {name: card_of(tmp_path / "out", name)["publishable"] for name in ("a", "b", "other")}
    assert found == {"a": True, "b": False, "other": True}
    assert "**Not to be published**: step `report`: score is 0.75" in (tmp_path / "out" / "b" / "README.md").read_text()


def test_a_report_that_misses_a_floor_holds_for_what_is_made_of_its_model_too(recipe_file, tmp_path):
    """A converted model is not better than the one that it was converted from."""
    lines = [*LINES[:-1], "report: {kind: judge, models: [b], floors: {score: 2}}", "small: {kind: mix, models: [b]}"]
    run_recipe(read_recipe(recipe_file(*lines)), tmp_path / "out")
    found = {name: card_of(tmp_path / "out", name)["publishable"] for name in ("a", "small", "other")}
    assert found == {"a": True, "small": False, "other": True}


def test_a_run_that_ends_early_leaves_no_model_without_its_refusals(recipe_file, tmp_path):
    lines = ["a: {kind: mix, floors: {score: 2}}", "b: {kind: mix, models: [a]}"]
    with pytest.raises(StepFailed):
        run_recipe(read_recipe(recipe_file(*lines, "c: {kind: mix, models: [b], fail: value}")), tmp_path / "out")
    assert [card_of(tmp_path / "out", name)["publishable"] for name in "ab"] == [False, False]


def test_a_licence_does_not_vanish_behind_another_of_the_same_name(recipe_file, tmp_path):
    """Of two recipes whose steps have the same names."""
    for folder, licence in (("first", "CC-BY-NC-4.0"), ("second", "MIT")):
        head = f"version: 1\nname: {folder}\n"
        fetch = f"base: {{kind: fetch, source: '{EMBEDDED}', licence: {licence}}}"
        run_recipe(read_recipe(recipe_file(fetch, head=head)), tmp_path / folder)
    for number, models in enumerate(
        ("./first/base, base", "./first/base, ./second/base", "./second/base, ./first/base")
    ):
        base = f"base: {{kind: fetch, source: '{EMBEDDED}', licence: MIT}}"
        recipe = read_recipe(recipe_file(base, f"made: {{kind: mix, models: [{models}], text: '{number}'}}"))
        run_recipe(recipe, tmp_path / "out")
        assert card_of(tmp_path / "out", "made")["licence"] == "CC-BY-NC-4.0"


def test_the_lineage_goes_on_through_the_card_of_what_another_recipe_made(recipe_file, tmp_path):
    run_recipe(read_recipe(recipe_file("a: {kind: mix, score: 0.1, floors: {score: 0.5}}")), tmp_path / "first")
    run_recipe(read_recipe(recipe_file("b: {kind: mix, models: [./first/a]}")), tmp_path / "second")
    card = card_of(tmp_path / "second", "b")
    assert [one["step"] for one in card["lineage"]] == ["demo/a", "b"]
    assert card["publishable"] is False


def test_a_model_folder_of_the_device_is_still_valid_with_record_and_card(recipe_file, tmp_path):
    recipe = read_recipe(recipe_file(f"base: {{kind: fetch, source: '{EMBEDDED}'}}"))
    (done,) = run_recipe(recipe, tmp_path / "out")
    verify_manifest(tmp_path / "out" / "base")
    assert not run_recipe(recipe, tmp_path / "out")[0].is_due
    assert done.record is not None
    stated = json.loads((EMBEDDED / "manifest.json").read_text())["license"]
    assert card_of(tmp_path / "out", "base")["licence"] == stated


@pytest.mark.parametrize(
    ("licence", "reader", "stated"),
    [
        ("CC-BY-4.0", "", {"words": "CC-BY-4.0"}),
        ("unknown", "", {"words": "unknown", "raw.txt": "unknown"}),
        ("CC-BY-4.0", ", models: [./raw.txt]", {"words": "CC-BY-4.0", "raw.txt": "unknown"}),
    ],
)
def test_what_is_stated_of_prepared_data_holds_for_its_source(licence, reader, stated, recipe_file, tmp_path):
    (tmp_path / "raw.txt").write_text("one text\nanother text\na third text\n")
    options = f"sources: ./raw.txt, splits: {{train: 100%}}, licence: {licence}"
    lines = (f"words: {{kind: prepare-data, {options}}}", f"a: {{kind: mix, data: words{reader}}}")
    run_recipe(read_recipe(recipe_file(*lines)), tmp_path / "out")
    assert card_of(tmp_path / "out", "a")["licences"] == stated


@pytest.mark.parametrize(
    ("licences", "stated"),
    [
        (["MIT", "Apache-2.0"], "MIT AND Apache-2.0"),
        (["MIT", "CC0-1.0"], "MIT"),
        (["MIT", "CC-BY-SA-4.0"], "CC-BY-SA-4.0"),
        (["CC-BY-NC-4.0", "GPL-3.0-only"], "CC-BY-NC-4.0"),
        (["MIT", "Acme-1.0"], "Acme-1.0"),
        (["MIT", "unknown"], "unknown"),
        (["MIT", ""], "unknown"),
        ([], "unknown"),
    ],
)
def test_the_most_restrictive_licence_is_stated_or_that_none_is_known(licences, stated):
    assert combined(licences) == stated


def test_licences_that_the_hub_lists_have_its_identifier():
    found = [hub_identifier(one) for one in ("Apache-2.0", "GPL-3.0-or-later", "Acme-1.0", "unknown")]
    assert found == ["apache-2.0", "gpl-3.0", "other", "unknown"]


def test_what_others_wrote_is_no_html_in_the_page(recipe_file, tmp_path):
    head = "version: 1\nname: demo\nabout: <script>alert(1)</script>\n"
    run_recipe(read_recipe(recipe_file("a: {kind: mix, text: '<img src=x>'}", head=head)), tmp_path / "out")
    assert "<" not in (tmp_path / "out" / "a" / "README.md").read_text()
