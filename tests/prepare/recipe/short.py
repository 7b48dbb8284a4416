"""Short forms of the recipes of examples/recipes: the same steps, on tiny models and data."""

import json
import shutil
import zipfile
from pathlib import Path

import yaml

from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.prepare.recipe.document import Recipe, read_recipe
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
        "student": {
            "teacher": "./decoder",
            "layers": 2,
            "inner": 48,
            "steps": 4,
            "length": 16,
            "batch": 2,
            "limit": 16,
            "evaluate_on": 4,
        },
        "small": None,
        "report": {"models": ["./decoder", "student"]},
    },
    "private": {
        "base": {"source": "./encoder"},
        "reviews": REVIEWS,
        "private": {"batch": 16, "max_length": 16, "target_epsilon": 50},
        "audit": {"records": 20},
    },
    "preferences": {
        "data": {"splits": {"train": "60%", "validation": "20%", "test": "20%"}},
        "brief": {"model": "./decoder", "steps": 2, "batch": 2, "max_length": 256, "every": 2},
    },
    "federated": {
        "base": {"source": "./encoder"},
        "reviews": {**REVIEWS, "splits": {"train": "60%", "unused": "20%", "test": "20%"}},
        "part": {**REVIEWS, "splits": {"train": "20%", "unused": "60%", "test": "20%"}},
        "federated": {"rounds": 1, "max_length": 16},
        "alone": {"rounds": 1, "max_length": 16},
        "central": {"rounds": 1, "max_length": 16},
    },
}
"""Recipe -> step -> the options that are others in its short form; None leaves out what another recipe has already."""


def make_inputs(folder: Path) -> Path:
    """Leave in *folder* a tiny encoder and decoder, sentences with two labels, and the other files of the recipes."""
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
    for suite in RECIPES[0].parent.glob("*.suite.yaml"):
        (folder / suite.name).write_text(suite.read_text().replace("limit: 200", "limit: 4"))
    for data in RECIPES[0].parent.glob("*.jsonl"):
        shutil.copy(data, folder)
    return folder


def shortened(path: Path, folder: Path) -> Recipe:
    """The recipe at *path* with the options of its short form, in *folder*; bounds are for the whole form."""
    recipe = yaml.safe_load(path.read_text())
    for name, options in SHORT[path.stem].items():
        if options is None:
            del recipe["steps"][name]
        else:
            recipe["steps"][name].update(options)
    for step in recipe["steps"].values():
        step.pop("floors", None)
        step.pop("ceilings", None)
    short = folder / path.name
    short.write_text(yaml.safe_dump(recipe))
    return read_recipe(short)


def check_short_form(path: Path, inputs: Path, out: Path) -> None:
    """Run the recipe at *path* in its short form: each model has its card, and a second run has nothing to do."""
    recipe = shortened(path, inputs)
    done = {one.name: one for one in run_recipe(recipe, out)}
    left_out = {name for name, options in SHORT[path.stem].items() if options is None}
    assert set(done) == set(read_recipe(path).steps) - left_out
    assert all(one.record is not None and one.is_due for one in done.values())
    for name, one in done.items():
        if one.record.makes == "model":
            card = json.loads((out / name / "card.json").read_text())
            assert [entry["step"] for entry in card["lineage"]][-1] == name
            assert (out / name / "README.md").read_text().startswith("---\n")
    assert all((out / name / "results.json").is_file() for name in done if name == "report")
    assert not any(one.is_due for one in run_recipe(recipe, out))
