"""The recipe of the demonstration models, in a short form: twice the same bytes, and what the shipped ones have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "examples" / "models"
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
SHORT: dict[str, dict[str, Any]] = {
    "tokenizer": {"vocabulary": 600},
    "edge-start": {"config": {**SMALL, "num_hidden_layers": 1, "max_position_embeddings": 256}},
    "edge-trained": {"steps": 4, "batch": 2, "max_length": 256},
    "node-start": {"config": {**SMALL, "intermediate_size": 64, "num_hidden_layers": 2}},
    "node": {"steps": 2, "batch": 1, "max_length": 512},
}
"""Step -> the options that are others in the short form."""
LEFT_OUT = ("edge", "edge-report", "node-report")
"""Conversion and evaluation, which run in the short forms of other recipes."""


def _recipe() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MODELS / "demonstration.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the short form and one part in 500 of its data, as the documented command generates it."""
    for name in ("torch", "transformers", "tokenizers", "datasets"):
        pytest.importorskip(name, reason="the recipe needs: pip install 'hybrid-llm[prepare]'")
    folder = tmp_path_factory.mktemp("demonstration")
    command = [sys.executable, "-m", "examples.models.recipe", str(folder / "data"), "--share", "0.002", "--items", "2"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    recipe = _recipe()
    recipe["steps"] = {name: step for name, step in recipe["steps"].items() if name not in LEFT_OUT}
    for name, options in SHORT.items():
        recipe["steps"][name] |= options
    for name, source in (("texts", "texts"), ("easy", "edge"), ("hard", "node")):
        recipe["steps"][name]["sources"] = f"data/{source}.jsonl"
        recipe["steps"][name]["splits"] = {"train": "100%"}
    recipe["steps"]["tokenizer"]["chat_template"] = str(MODELS / "recipe" / "chat_template.jinja")
    (folder / "short.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


def _weights(recipe: Path, out: Path) -> dict[str, bytes]:
    """The files of every model that the recipe makes."""
    from hybrid_llm.prepare.recipe.document import read_recipe
    from hybrid_llm.prepare.recipe.runner import run_recipe

    made = [one.name for one in run_recipe(read_recipe(recipe), out) if one.record and one.record.makes == "model"]
    names = ("model.safetensors", "tokenizer.json", "config.json")
    return {
        f"{name}/{file}": (out / name / file).read_bytes() for name in made for file in names if _is(out, name, file)
    }


def _is(out: Path, name: str, file: str) -> bool:
    return (out / name / file).is_file()


def test_two_runs_make_the_same_bytes(inputs: Path, tmp_path: Path) -> None:
    one, two = (_weights(inputs / "short.yaml", tmp_path / name) for name in ("one", "two"))
    assert {"tokenizer/tokenizer.json", "edge-trained/model.safetensors", "node/model.safetensors"} <= set(one)
    assert one == two
    training = json.loads((tmp_path / "one" / "edge-trained" / "training.json").read_text(encoding="utf-8"))
    losses = [loss for _, loss in training["train"]]
    assert losses[-1] < losses[0]


def test_the_recipe_makes_models_of_the_shapes_that_are_shipped() -> None:
    steps = _recipe()["steps"]
    shipped = json.loads((MODELS / "hybrid-demo-node" / "config.json").read_text(encoding="utf-8"))
    assert {key: shipped[key] for key in steps["node-start"]["config"]} == steps["node-start"]["config"]
    edge = json.loads((ROOT / "backends/edge/models/hybrid-demo-edge/genai_config.json").read_text(encoding="utf-8"))
    made, decoder = steps["edge-start"]["config"], edge["model"]["decoder"]
    assert edge["model"]["context_length"] == made["max_position_embeddings"]
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        assert decoder[key] == made[key]


def test_the_paths_of_the_recipe_are_those_of_the_generator() -> None:
    from examples.models.recipe.__main__ import FOLDER

    steps = _recipe()["steps"]
    for name in ("texts", "easy", "hard"):
        assert (MODELS / steps[name]["sources"]).resolve().parent == ROOT / FOLDER
