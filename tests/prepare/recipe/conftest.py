"""Recipes of steps that are made up, in a folder of their own."""

from pathlib import Path

import pytest

from hybrid_llm.prepare.steps import STEPS
from tests.prepare.recipe import steps


@pytest.fixture
def recipe_file(tmp_path):
    """Writes the lines of a recipe's steps, and returns its path."""

    def write(*lines: str, head: str = "version: 1\nname: demo\n") -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(f"{head}steps:\n" + "".join(f"  {line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def ran():
    """Lets recipes name the steps of these tests; what ran, in order."""
    steps.register()
    steps.RAN.clear()
    yield steps.RAN
    STEPS._registered.clear()  # for the tests of other folders in this process
