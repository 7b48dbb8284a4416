"""A recipe is read strictly: what is wrong is reported at its line before anything runs."""

import re

import pytest

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.prepare.recipe.document import read_recipe, recipe_schema
from hybrid_llm.prepare.recipe.graph import ancestors, order


def wrong(path):
    with pytest.raises(PolicyError) as caught:
        read_recipe(path)
    return caught.value


def test_a_step_names_steps_in_any_order_and_paths_from_the_folder_of_the_recipe(recipe_file, tmp_path):
    (tmp_path / "given.txt").write_text("x")
    recipe = read_recipe(
        recipe_file("last: {kind: mix, models: [first, ./given.txt]}", "first: {kind: mix, text: a, seed: 3}")
    )
    assert order(recipe) == ("first", "last")
    assert ancestors(recipe, "last") == {"first"}
    assert recipe.folder == tmp_path
    assert recipe.steps["first"].bounds.seed == 3


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        (["a: {kind: mux}"], 4, r"`mux` is not a kind of step.*did you mean `mix`\?"),
        (["a: {kind: mix, txt: b}"], 4, r"has no key `txt`.*did you mean `text`\?"),
        (["a: {kind: mix, score: warm}"], 4, "`warm` is not a number"),
        (["a: {kind: mix}", "b: {kind: mix, models: [c]}"], 5, "`c` is neither a step of this recipe nor a path"),
        (["base: {kind: mix}", "b: {kind: mix, models: [bose]}"], 5, r"did you mean `base`\?"),
        (["a: {kind: mix, models: [a]}"], 4, "the step `a` reads itself"),
        (["a: {kind: words}", "b: {kind: mix, models: [a]}"], 5, "`models` reads a model, and the step `a` makes data"),
        (["a: {kind: mix}", "b: {kind: mix, data: a}"], 5, "`data` reads data, and the step `a` makes a model"),
        (["a: {kind: mix, models: ['hf:org/name']}"], 4, "only a step of kind fetch reads.*kind: fetch"),
        (["a: {kind: mix, models: [b]}", "b: {kind: mix, models: [a]}"], 4, "in a cycle: a -> b -> a"),
        (
            [
                "z: {kind: mix}",
                "a: {kind: mix, models: [b]}",
                "b: {kind: mix, models: [c]}",
                "c: {kind: mix, models: [a]}",
            ],
            5,
            "in a cycle: a -> b -> c -> a",
        ),
        (["../up: {kind: mix}"], 4, "`../up` is no name"),
        (["a: {kind: mix, floors: {score: high}}"], 4, "`high` is not a number"),
        (["a: {kind: fetch, source: ./nowhere.gguf}"], 4, "there is no file or folder nowhere.gguf"),
        (["a: {kind: fetch, source: 'pypi:thing'}"], 4, "is not pypi:NAME==VERSION"),
        (["a: {kind: fetch}"], 4, "`source` is missing"),
    ],
)
def test_what_is_wrong_with_a_step_is_reported_at_its_line_with_a_hint(recipe_file, lines, line, message):
    error = wrong(recipe_file(*lines))
    assert error.line == line
    assert re.search(message, str(error), re.DOTALL), str(error)


def test_everything_that_is_wrong_is_reported_at_once(recipe_file):
    error = wrong(recipe_file("a: {kind: mix, score: x}", "b: {kind: mux}", head="version: 1\nname: De mo\n"))
    assert [one.line for one in error.errors] == [2, 4, 5]


def test_a_recipe_without_steps_or_of_another_version_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 2\nname: demo\n")
    error = wrong(path)
    assert "only version 1 can be read" in str(error)
    assert "`steps` is missing" in str(error)


def test_the_schema_has_the_keys_of_every_kind_and_what_every_step_can_have():
    schema = recipe_schema()
    kinds = schema["properties"]["steps"]["additionalProperties"]
    assert "fetch" in kinds["properties"]["kind"]["enum"]
    by_kind = {branch["then"]["properties"]["kind"]["const"]: branch["then"] for branch in kinds["allOf"]}
    assert {"source", "as", "seed", "floors", "ceilings"} <= set(by_kind["fetch"]["properties"])
    assert by_kind["fetch"]["required"] == ["source"]
