"""The worked recipes of examples/recipes are valid, and each runs in a short form, on tiny models and data."""

import json
import zipfile
from pathlib import Path

import pytest
import yaml

from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import run_recipe
from tests.prepare.compression.tiny import write_decoder
from tests.prepare.privacy import tiny

ROOT = Path(__file__).resolve().parents[3]
RECIPES = sorted(path for path in (ROOT / "examples" / "recipes").glob("*.yaml") if ".suite" not in path.name)
REVIEWS = {"sources": "./reviews.zip", "duplicates": "keep"}
SHORT = {
    "sentiment": {
        "base": {"source": "./encoder"},
        "reviews": REVIEWS,
        "tuned": {"steps": 4, "batch": 8, "max_length": 16, "every": 2},
        "small": {"precision": "fp32"},
    },
    "domain": {
        "base": {"source": "./decoder"},
        "reviews": REVIEWS,
        "tuned": {"steps": 4, "batch": 4, "max_length": 16, "every": 2},
        "small": {"precision": "fp32"},
    },
    "distil": {
        "reviews": REVIEWS,
        "student": {"teacher": "./decoder", "layers": 2, "inner": 48, "steps": 4, "length": 16, "batch": 2},
        "small": {"precision": "fp32"},
        "report": {"models": ["./decoder", "student", "small"]},
    },
    "private": {
        "base": {"source": "./encoder"},
        "reviews": REVIEWS,
        "private": {"batch": 16, "max_length": 16, "target_epsilon": 50},
        "audit": {"records": 20},
    },
}
"""Recipe -> step -> the options that are others in its short form."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a tiny encoder and decoder, sentences with two labels, and the suites of the recipes."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny.encoder(folder / "encoder")
    write_decoder(folder / "decoder", seed=0)
    records = tiny.labelled(400, 0, meaning=True)
    words = TEXT.split()
    with zipfile.ZipFile(folder / "reviews.zip", "w") as archive:
        for name, label in (("neg", "no"), ("pos", "yes")):
            texts = [
                f"{one['text']} {words[at % len(words)]}" for at, one in enumerate(records) if one["label"] == label
            ]
            archive.writestr(f"rt-polarity.{name}", "\n".join(texts))
    for suite in (ROOT / "examples" / "recipes").glob("*.suite.yaml"):
        (folder / suite.name).write_text(suite.read_text().replace("limit: 300", "limit: 4"))
    return folder


def shortened(path, folder):
    """The recipe at *path* with the options of its short form, in *folder*; bounds are for the whole form."""
    recipe = yaml.safe_load(path.read_text())
    for name, options in SHORT[path.stem].items():
        recipe["steps"][name].update(options)
    for step in recipe["steps"].values():
        step.pop("floors", None)
        step.pop("ceilings", None)
    short = folder / path.name
    short.write_text(yaml.safe_dump(recipe))
    return read_recipe(short)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_is_valid(path):
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.about
    assert any(step.bounds.floors or step.bounds.ceilings for step in recipe.steps.values())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_short_form_leaves_models_with_cards_and_a_report(path, inputs, tmp_path):
    recipe = shortened(path, inputs)
    done = {one.name: one for one in run_recipe(recipe, tmp_path / "out")}
    assert set(done) == set(read_recipe(path).steps)
    assert all(one.record is not None and one.is_due for one in done.values())
    for name, one in done.items():
        if one.record.makes == "model":
            card = json.loads((tmp_path / "out" / name / "card.json").read_text())
            assert [entry["step"] for entry in card["lineage"]][-1] == name
            assert (tmp_path / "out" / name / "README.md").read_text().startswith("---\n")
    assert (tmp_path / "out" / "report" / "results.json").is_file()
    assert not any(one.is_due for one in run_recipe(recipe, tmp_path / "out"))
