"""`hybrid-llm models add` and its siblings: the catalogue, licences, names, and what is said when it goes wrong."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.folder import read_layout, read_manifest
from hybrid_llm.backends.models.sources import parse_source
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.extras import requirements
from hybrid_llm.router.config import parse_config
from hybrid_llm.router.config.catalogue import parse_catalogue, read_catalogue
from tests.ggufs import small_llama

ENTRY = """\
version: 1
models:
  one: {about: a, good_at: b, source: "pypi:a==1", license: MIT, license_url: u, parameters_m: 1, context: 1,
        download_mb: 1, disk_mb: 1}
"""


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRID_LLM_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


def test_every_entry_of_the_catalogue_can_be_added_or_says_why_not():
    catalogue = read_catalogue()
    assert {"smollm2-135m", "smollm2-360m", "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen3-0.6b"} <= set(catalogue)
    for entry in catalogue.values():
        source = parse_source(entry.source)
        assert source.remote
        assert bool(entry.sha256) == entry.source.startswith("pypi:"), "a hash is there where it was seen"
        assert not entry.needs or requirements(entry.needs)
        assert entry.accept == bool(re.search("Gemma|Llama", entry.license))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ENTRY.replace("about", "abuot"), "did you mean `about`"),
        (ENTRY.replace("MIT", '""'), "empty"),
        (ENTRY.replace("license: MIT", 'license: MIT, sha256: "ABC"'), "64 hex digits"),
        (ENTRY.replace("context: 1", "context: many"), "whole number"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_line_and_column(text, reason):
    assert parse_catalogue(ENTRY)["one"].name == "one"
    with pytest.raises(PolicyError, match=reason):
        parse_catalogue(text)


def test_a_word_that_is_nearly_a_name_is_answered_with_the_name(cli):
    done = cli("models", "add", "smollm2-135")
    assert done.code == 3
    assert "did you mean `smollm2-135m`?" in done.err
    assert "nosuch.gguf: there is no such file" in cli("models", "add", "nosuch.gguf").err
    assert "neither an added model nor a folder" in cli("models", "inspect", "smollm2-135").err


def test_the_catalogue_is_listed_with_licences(cli):
    listed = cli("models", "list", "--available").out
    assert "Apache-2.0" in listed
    assert "(to accept)" in listed
    assert json.loads(cli("models", "list", "--available", "--json").out)[0]["name"] == "smollm2-135m"


def test_a_licence_that_must_be_accepted_is_shown_and_nothing_is_fetched_without_consent(cli, store):
    done = cli("models", "add", "gemma3-1b")
    assert done.code == 3
    assert "https://ai.google.dev/gemma/terms" in done.err
    assert "--accept-license" in done.err
    assert not store.exists()


def test_a_licence_is_accepted_on_a_terminal(terminal, store):
    view = terminal("models", "add", "gemma3-1b")
    view.wait_for("[y/N]", 60)
    view.type("n\n")
    view.wait_for("then pass --accept-license", 60)
    assert view.end(60) == 3
    assert not store.exists()


def test_models_are_added_chosen_listed_inspected_verified_and_removed_by_name(cli, tmp_path):
    source = shutil.copytree(embedded_model(), tmp_path / "My Model")
    added = cli("models", "add", source, "--license", "Apache-2.0")
    assert (added.code, "my-model added" in added.out) == (0, True)
    assert cli("models", "add", source, "--name", "second", "--use", "--json").code == 0
    listed = json.loads(cli("models", "list", "--json").out)
    assert [(one["added_as"], one["default"]) for one in listed] == [
        ("embedded", False),
        ("my-model", False),
        ("second", True),
    ]
    inspected = json.loads(cli("models", "inspect", "second", "--json").out)
    assert inspected["origin"]["source"] == str(source)
    assert cli("models", "verify").out.count("as they were added") == 2
    assert cli("models", "remove", "second").code == 3
    assert cli("models", "use", "my-model").code == 0
    assert cli("models", "remove", "second").code == 0
    gone = cli("models", "use", "second")
    assert (gone.code, "there is no model `second`" in gone.err) == (3, True)
    assert "did you mean `my-model`?" in cli("models", "verify", "my-modle").err


def test_a_model_is_added_with_hidden_states_and_one_without_is_not_taken_for_it(cli, store, tmp_path):
    small_llama(tmp_path / "small.gguf")
    assert cli("models", "add", tmp_path / "small.gguf", "--name", "plain").code == 0
    refused = cli("models", "add", tmp_path / "small.gguf", "--name", "plain", "--hidden-states")
    assert (refused.code, "is there already, without hidden states" in refused.err) == (3, True)
    for _ in range(2):
        assert cli("models", "add", tmp_path / "small.gguf", "--name", "rich", "--hidden-states").code == 0
    folder = store / "rich" / "model"
    assert read_layout(folder, read_manifest(folder)).hidden_states == "hidden_states"
    assert cli("models", "add", folder, "--name", "copy", "--hidden-states").code == 0
    made = cli("models", "add", embedded_model(), "--name", "other", "--hidden-states")
    assert (made.code, "was made without hidden states" in made.err) == (3, True)


@pytest.mark.parametrize(("model", "notice"), [("default", ""), ("mine", ""), ("embedded", "demonstration")])
def test_the_model_of_the_configuration_answers(cli, tmp_path, model, notice):
    cli("models", "add", embedded_model(), "--name", "mine")
    config = tmp_path / "hybrid.yaml"
    config.write_text(f"version: 1\nbackends: {{edge: {{kind: onnx, model: {model}}}}}\n")
    reply = json.loads(cli("generate", "What is 17 + 25?", "--max-tokens", 8, "--json", "--config", config).out)
    assert notice in reply["notice"]
    assert bool(notice) == bool(reply["notice"])


def test_model_in_hybrid_yaml_takes_a_name_a_path_or_a_word_and_lists_what_it_knows(cli, store, tmp_path):
    cli("models", "add", embedded_model(), "--name", "mine")

    def model(text):
        text = f"version: 1\nbackends: {{edge: {{kind: onnx, model: {text}}}}}\n"
        return parse_config(text, tmp_path / "hybrid.yaml").backends[0]

    assert model("mine").model == store / "mine" / "model"
    assert model("default").folder == store / "mine" / "model"
    assert model("embedded").folder == embedded_model()
    assert model("./mine").model == tmp_path / "mine"
    (tmp_path / "beside").mkdir()
    assert model("beside").model == tmp_path / "beside"
    with pytest.raises(ConfigError, match=r"hybrid\.yaml:2:38: `mien` is not .*\n.*\n.*\n.*did you mean `mine`\?"):
        model("mien")
    with pytest.raises(ConfigError, match=r"known here: default, embedded, mine .*models add NAME"):
        model("something-else")


def test_on_a_terminal_the_embedded_model_says_once_that_it_is_a_demonstration(terminal):
    view = terminal("chat", "--max-tokens", "4")
    view.wait_for("> ", 60)
    view.type("What is 1 + 1?\n")
    view.wait_for("models add smollm2-135m", 60)
    view.type("What is 2 + 2?\n/exit\n")
    assert view.end(60) == 0
    assert "models add" not in view.shown
