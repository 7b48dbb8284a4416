"""`hybrid-llm models evaluate`: results, a page and an exit code; nothing is left of the answers."""

from __future__ import annotations

import json

SUITE = """\
version: 1
name: tiny
tasks:
  reviews: {kind: classify, data: d.csv, labels: [negative, positive]}
"""


def files(folder, suite=SUITE):
    (folder / "d.csv").write_text("text,label\nA warm film.,positive\nA dull film.,negative\n")
    (folder / "suite.yaml").write_text(suite)
    (folder / "hybrid.yaml").write_text("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n")
    return folder / "suite.yaml", folder / "hybrid.yaml"


def test_it_measures_and_leaves_results_and_a_page(cli, tmp_path):
    suite, config = files(tmp_path)
    out = tmp_path / "out"
    done = cli("models", "evaluate", f"{config}:edge", config, "--suite", suite, "--out", out)
    assert done.code == 0, done.err
    assert "reviews: classify, 2 items" in done.out
    assert "accuracy" in done.out
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.json"]
    subjects = json.loads((out / "results.json").read_text())["subjects"]
    assert list(subjects) == ["edge", "policy"]


def test_json_is_the_file(cli, tmp_path):
    suite, config = files(tmp_path)
    done = cli("models", "evaluate", config, "--suite", suite, "--out", tmp_path / "o", "--limit", 1, "--json")
    assert json.loads(done.out) == json.loads((tmp_path / "o" / "results.json").read_text())
    assert json.loads(done.out)["tasks"]["reviews"]["items"] == 1


def test_errors_have_the_codes_of_other_commands(cli, tmp_path):
    suite, config = files(tmp_path, SUITE.replace("classify", "clasify"))
    done = cli("models", "evaluate", config, "--suite", suite)
    assert (done.code, "did you mean `classify`" in done.err) == (3, True)
    assert cli("models", "evaluate").code == 2
    assert cli("models", "evaluate", f"{config}@7", "--suite", suite).code == 2
    assert json.loads(cli("models", "evaluate", "--schema").out)["title"]
