"""`hybrid-llm models`: what there is, whether it is whole, and what is missing to convert."""

import json
import re
import shutil
import sys

import pytest

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.folder import read_layout, read_manifest
from hybrid_llm.core.extras import install_hint
from tests.ggufs import small_llama


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(embedded_model(), tmp_path / "models" / "copy")
    return tmp_path / "models" / "copy"


def test_the_embedded_model_is_listed_and_so_are_those_of_a_folder(cli, folder, monkeypatch):
    listed = json.loads(cli("models", "list", folder.parent, "--json").out)
    assert [item["embedded"] for item in listed] == [True, False]
    assert listed[1]["folder"] == str(folder)
    monkeypatch.chdir(folder.parent.parent)
    assert len(cli("models", "list").out.splitlines()) == 4


def test_a_broken_manifest_does_not_hide_the_other_models(cli, folder):
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    result = cli("models", "list", folder.parent)
    assert len(result.out.splitlines()) == 3, "columns, rule and one model"
    assert "is not a model manifest" in result.err


def test_inspect_verifies_every_file_and_describes_the_model(cli):
    result = cli("models", "inspect", "embedded")
    assert result.code == 0
    assert "context window" in result.out
    assert "all SHA-256 verified" in result.out
    assert "KiB of keys and values per token" in result.out
    shown = json.loads(cli("models", "inspect", embedded_model(), "--json").out)
    assert shown["verified"]
    assert shown["embedded"]
    assert f"memory_limit_mb: 512 holds {(512 << 20) // shown['kv_bytes_per_token']:,} tokens" in result.out
    assert shown["files"]["model.onnx"]["bytes"] > 0


def test_a_half_written_and_a_changed_file_are_code_3(cli, folder):
    weights = folder / "model.onnx.data"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    half = cli("models", "inspect", folder)
    assert half.code == 3
    assert "incomplete" in half.err
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "SHA-256" in cli("models", "inspect", folder).err


def test_a_missing_folder_is_code_3(cli, tmp_path):
    assert cli("models", "inspect", tmp_path / "absent").code == 3
    assert cli("models", "list", tmp_path / "absent").code == 3


def test_convert_without_its_extra_says_what_to_install(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    assert "absent cannot be read" in cli("models", "convert", tmp_path / "absent", tmp_path / "out").err
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (source / name).write_text('{"architectures": ["LlamaForCausalLM"]}')
    (source / "model.safetensors").touch()
    result = cli("models", "convert", source, tmp_path / "out")
    assert result.code == 3
    assert install_hint("prepare") in result.err


def test_convert_refuses_an_incomplete_source_and_leaves_nothing(cli, tmp_path):
    result = cli("models", "convert", tmp_path, tmp_path / "out")
    assert result.code == 3
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_is_converted_without_the_extra_and_can_be_used(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    small_llama(tmp_path / "small.gguf")
    result = cli("models", "convert", tmp_path / "small.gguf", tmp_path / "out")
    assert result.code == 0, result.err
    assert "Q4_0" in result.out
    shown = cli("models", "inspect", tmp_path / "out").out
    assert "verified" in shown
    assert "older importer" not in shown
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(re.sub(r',\s*"importer": \d+', "", manifest.read_text()))
    assert "made by an older importer" in cli("models", "inspect", tmp_path / "out").out


def test_a_gguf_file_without_template_says_what_to_do_and_takes_a_named_one(cli, tmp_path):
    small_llama(tmp_path / "small.gguf", chat_template=None)
    refused = cli("models", "convert", tmp_path / "small.gguf", tmp_path / "out")
    assert refused.code == 3
    assert "--chat-template" in refused.err
    unknown = cli("models", "convert", tmp_path / "small.gguf", tmp_path / "out", "--chat-template", "vicuna")
    assert (unknown.code, "'vicuna' is none of chatml, gemma, nor a text file" in unknown.err) == (3, True)
    assert (
        "--precision is for"
        in cli("models", "convert", tmp_path / "small.gguf", tmp_path / "out", "--precision", "int4").err
    )
    own = tmp_path / "own.jinja"
    own.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    assert cli("models", "convert", tmp_path / "small.gguf", tmp_path / "out", "--chat-template", own).code == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8") == own.read_text(encoding="utf-8")


def test_a_converted_model_gives_hidden_states_where_it_was_asked_for(cli, tmp_path):
    small_llama(tmp_path / "small.gguf")
    for name, options in (("with", ["--hidden-states"]), ("without", [])):
        assert cli("models", "convert", tmp_path / "small.gguf", tmp_path / name, *options).code == 0
        folder = tmp_path / name
        layout = read_layout(folder, read_manifest(folder))
        assert layout.hidden_states == ("hidden_states" if options else None)
