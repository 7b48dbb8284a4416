"""A guardrail that asks a classifier of texts."""

from __future__ import annotations

import json
import shutil

import pytest

from hybrid_llm import ConfigError
from hybrid_llm.core.protocols import Direction, Verdict
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.guardrails import EncoderGuardrail
from hybrid_llm.router.config import load_config
from tests.fakes import A_DAY


def judged(guardrail: EncoderGuardrail, text: str) -> Verdict:
    return guardrail.check(text, Direction.INPUT, RequestMetadata(deadline=A_DAY))


def test_a_label_that_reaches_its_limit_is_refused_under_its_name(texts):
    guardrail = EncoderGuardrail(texts.folder, labels={"Food": 0.8})
    assert judged(guardrail, "and the soup") == Verdict.refuse("food", "classified")
    assert not judged(guardrail, "and the storm").refuses


def test_what_is_harmless_around_it_does_not_dilute_a_passage(texts):
    guardrail = EncoderGuardrail(texts.folder, labels={"Food": 0.8}, window=32)
    assert judged(guardrail, "rain and storm " * 30 + "tea bread soup rice " * 3 + "snow and wind " * 30).refuses


def test_a_model_of_several_labels_judges_each_for_itself(texts, tmp_path):
    folder = tmp_path / "several"
    shutil.copytree(texts.folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text(json.dumps(settings | {"problem_type": "multi_label_classification"}))
    limits = [0.6, 0.9, 0.95, 0.97, 0.98, 0.99, 0.993, 0.996, 0.998, 0.999]
    one, several = (
        [judged(EncoderGuardrail(files, labels={"Food": limit}), "and the soup").refuses for limit in limits]
        for files in (texts.folder, folder)
    )
    assert several[0]
    assert sum(several) < sum(one), "a share of its own is less than one of two that add up to 1"
    assert not judged(EncoderGuardrail(folder, labels={"Food": 0.6}), "and the storm").refuses


def test_an_unknown_label_is_rejected_with_the_one_that_is_meant(texts):
    with pytest.raises(ConfigError, match="did you mean `Food`"):
        EncoderGuardrail(texts.folder, labels={"Foot": 0.5})


def test_a_file_names_the_model_and_its_limits(texts, tmp_path):
    listed = f"[{{kind: encoder, model: '{texts.folder}', labels: {{Food: 0.8}}, window: 64}}]"
    path = tmp_path / "hybrid.yaml"
    path.write_text(f"version: 1\nbackends:\n  edge: {{kind: onnx, model: embedded}}\nguardrails: {listed}\n")
    (rule,) = load_config(path).open_guardrails()
    assert (rule.guardrail.name, rule.guardrail.window) == ("encoder", 64)
    assert judged(rule.guardrail, "and the soup").refuses
