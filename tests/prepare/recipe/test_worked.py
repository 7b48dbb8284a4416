"""The worked recipes of examples/recipes are valid, and each runs in a short form, on tiny models and data."""

import pytest

from hybrid_llm.prepare.recipe.document import read_recipe
from tests.prepare.recipe.short import RECIPES, check_short_form, make_inputs

HERE = [path for path in RECIPES if path.stem != "federated"]
"""Without the one that runs in an environment of its own: tests/prepare/federated/test_worked.py."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_valid(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.about
    assert any(step.bounds.floors or step.bounds.ceilings for step in recipe.steps.values())
    assert (path.parents[2] / "docs" / "recipes" / f"{path.stem}.md").is_file()


@pytest.mark.parametrize("path", HERE, ids=lambda path: path.stem)
def test_its_short_form_leaves_models_with_cards_and_a_report(path, inputs, tmp_path):
    check_short_form(path, inputs, tmp_path / "out")
