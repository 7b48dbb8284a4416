"""The commands of a registry: what they print, and how they end where something is wrong."""

from __future__ import annotations

import json
import shutil

import pytest

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.cli.main import main
from hybrid_llm.cli.terminal import Exit


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model, a signer's certificate, and an empty store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_LLM_MODELS", str(tmp_path / "store"))
    monkeypatch.setenv("HYBRID_LLM_REGISTRY", "registry")
    shutil.copytree(embedded_model(), tmp_path / "edge")
    make_authority("certs")
    issue("certs", "release", kind="signer")
    return tmp_path


def run(*words):
    return main(["models", *words])


def test_a_model_goes_from_a_folder_to_the_store_and_back(here, capsys):
    sign = ("sign", "edge", "--key", "certs/release.key", "--cert", "certs/release.pem")
    assert run(*sign) == Exit.OK
    assert run("publish", "edge", "--name", "edge", "--alias", "prod") == Exit.OK
    (here / "edge" / "NOTES.md").write_text("second")
    assert run(*sign) == Exit.OK
    assert run("publish", "edge", "--name", "edge") == Exit.OK
    capsys.readouterr()
    assert run("list", "--remote", "--json") == Exit.OK
    rows = json.loads(capsys.readouterr().out)
    assert sorted(row["aliases"] for row in rows) == [[], ["prod"]]
    second = next(row["digest"] for row in rows if not row["aliases"])
    assert run("promote", f"edge@{second[:12]}", "prod") == Exit.OK
    assert run("pull", "edge@prod", "--ca", "certs/ca.pem", "--json") == Exit.OK
    assert run("rollback", "edge", "prod") == Exit.OK
    assert run("pull", "edge@prod", "--ca", "certs/ca.pem") == Exit.OK
    assert not (here / "store" / "edge" / "model" / "NOTES.md").exists()
    assert run("verify", "edge") == Exit.OK
    assert run("history", "edge", "prod") == Exit.OK
    assert len(capsys.readouterr().out.strip().splitlines()) >= 3
    assert run("gc", "--grace", "0") == Exit.OK
    assert "0 pieces" in capsys.readouterr().out


def test_a_model_of_another_signer_or_without_a_signature_ends_as_a_security_error(here, capsys):
    assert run("publish", "edge", "--name", "edge") == Exit.OK
    assert run("pull", "edge", "--ca", "certs/ca.pem") == Exit.SECURITY
    assert "is not signed" in capsys.readouterr().err
    assert run("verify-signature", "edge", "--ca", "certs/ca.pem") == Exit.SECURITY
    assert run("sign", "edge", "--key", "mine", "--new-key") == Exit.OK
    assert run("verify-signature", "edge", "--public-key", "mine.pub") == Exit.OK
    assert run("verify-signature", "edge", "--ca", "certs/ca.pem") == Exit.SECURITY
    assert not (here / "store" / "edge").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("pull", "edge"), Exit.CONFIG, "there is no registry"),
        (("pull", "@prod"), Exit.USAGE, "NAME@ALIAS"),
        (("publish", "absent", "--name", "edge"), Exit.CONFIG, "is not a folder"),
        (("publish", "edge", "--name", "No Name"), Exit.CONFIG, "cannot name"),
        (("pull", "edge", "--into", "x", "--as", "y"), Exit.CONFIG, "one of both"),
        (("verify-signature", "edge"), Exit.CONFIG, "--ca FILE"),
        (("verify-signature", "edge", "--identity", "x"), Exit.CONFIG, "goes with --ca"),
        (("list", "--remote", "--where", "good"), Exit.USAGE, "METRIC>=NUMBER"),
        (("publish", "edge", "--name", "edge", "--key-file", "absent"), Exit.CONFIG, "openssl rand"),
    ],
)
def test_what_is_wrong_is_a_message_and_an_exit_code(here, capsys, words, code, said):
    assert run(*words) == code
    assert said in capsys.readouterr().err


def test_an_index_answers_as_the_registry(here, capsys):
    pytest.importorskip("sqlalchemy")
    assert run("publish", "edge", "--name", "edge") == Exit.OK
    answers = []
    for more in ((), ("--index", "sqlite:///index.db")):
        capsys.readouterr()
        assert run("list", "--remote", "--kind", "onnx", *more, "--json") == Exit.OK
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert len(answers[0]) == 1


def test_data_and_a_missing_folder_are_not_published_and_begin_no_registry(here, capsys):
    assert run("publish", "egde", "--name", "edge") == Exit.CONFIG
    assert not (here / "registry").exists()
    (here / "reviews").mkdir()
    (here / "reviews" / "data.json").write_text("{}")
    (here / "reviews" / "train.jsonl").write_text("{}")
    assert run("publish", "reviews", "--name", "reviews") == Exit.CONFIG
    assert "holds data" in capsys.readouterr().err
    (here / "notes").mkdir()
    (here / "notes" / "a.txt").write_text("x")
    assert run("publish", "notes", "--name", "notes") == Exit.CONFIG
    assert "notes holds no model: none of its files ends with .safetensors" in capsys.readouterr().err
    (here / "notes" / "config.json").write_text("{}")
    assert run("publish", "notes", "--name", "notes") == Exit.CONFIG
    assert not (here / "registry").exists()
    (here / "notes" / "config.json").unlink()
    (here / "notes" / "other.gguf").write_text("x")
    assert run("publish", "notes", "--name", "notes") == Exit.OK
    assert "notes holds no model that hybrid-llm knows" in capsys.readouterr().err


def test_the_history_tells_the_share_of_a_roll_out(here, capsys):
    assert run("publish", "edge", "--name", "edge", "--alias", "prod") == Exit.OK
    (here / "edge" / "NOTES.md").write_text("second")
    assert run("publish", "edge", "--name", "edge", "--alias", "canary") == Exit.OK
    assert run("promote", "edge@canary", "prod", "--share", "5%") == Exit.OK
    capsys.readouterr()
    assert run("history", "edge", "prod") == Exit.OK
    assert capsys.readouterr().out.splitlines()[-1].endswith("5 % of the devices")
