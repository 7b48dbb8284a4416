"""lm-eval drives our models: its own offline tasks, with the log-likelihoods of its own `hf` model."""

from __future__ import annotations

import json
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.evaluation.subjects.opening import open_subject, parse_subject

pytest.importorskip("lm_eval", reason="the extra lm-eval")
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from hybrid_llm.integrations.lm_eval import HybridLM, run_tasks

TASKS = {
    "choices": "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: answer\ndoc_to_choice: choices\n"
    "metric_list: [{metric: acc}, {metric: acc_norm}]\n",
    "text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{q}}'\n"
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n",
    "write": "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{choices[0]}}'\n"
    "generation_kwargs: {until: ['.'], max_gen_toks: 6}\nmetric_list: [{metric: exact_match}]\n",
}
RECORDS = [
    {"q": "The sun rises in the", "choices": ["east", "west of the river"], "answer": 0},
    {"q": "Two and two are ", "choices": ["five", "four"], "answer": 1},
    {"q": "A long sentence about the weather and the sea. " * 9, "choices": ["yes", "no"], "answer": 1},
]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm-eval")
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    head = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}\ntest_split: test\n"
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: mine_{name}\n{head}{text}")
    return folder


def evaluated(model, tasks, *names):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(model, tasks=[f"mine_{name}" for name in names], task_manager=manager, bootstrap_iters=0)
    return found["samples"], found["results"]


@pytest.mark.parametrize("form", ["hf", "fp32"])
def test_log_likelihoods_are_those_of_lm_evals_own_model(decoders, tasks, form):
    theirs, their_results = evaluated(
        HFLM(pretrained=str(decoders / "hf"), dtype="float32", device="cpu", batch_size=1), tasks, "choices", "text"
    )
    model = HybridLM(str(decoders / form))
    ours, results = evaluated(model, tasks, "choices", "text")
    model.close()
    for name in ("mine_choices", "mine_text"):
        for one, other in zip(ours[name], theirs[name], strict=True):
            for (mine,), (reference,) in zip(one["resps"], other["resps"], strict=True):
                pairs = [(mine, reference)] if isinstance(mine, float) else zip(mine, reference, strict=True)
                for value, expected in pairs:
                    assert float(value) == pytest.approx(float(expected), abs=2e-3 * max(1.0, abs(float(expected))))
    assert results["mine_choices"]["acc,none"] == their_results["mine_choices"]["acc,none"]


def test_texts_are_generated_through_the_client(decoders, tasks):
    with_policy = open_subject(parse_subject(str(decoders / "fp32")))
    try:
        results = run_tasks(with_policy, ["mine_write"], include=tasks, limit=2)
    finally:
        with_policy.close()
    assert results["results"]["mine_write"]["exact_match,none"] == 0.0
    assert results["n-samples"]["mine_write"]["effective"] == 2


def test_likelihoods_are_refused_where_nothing_can_read_them(tasks, tmp_path, decoders):
    path = tmp_path / "hybrid.yaml"
    path.write_text(f"version: 1\nbackends:\n  edge: {{kind: onnx, model: {decoders / 'fp32'}}}\n")
    subject = open_subject(parse_subject(str(path)))
    try:
        with pytest.raises(ConfigError, match="probabilities of whole texts"):
            run_tasks(subject, ["mine_choices"], include=tasks, limit=1)
    finally:
        subject.close()


@pytest.mark.slow
def test_an_unknown_task_is_an_error_that_says_how_to_add_one(decoders):
    subject = open_subject(parse_subject(str(decoders / "fp32")))
    try:
        with pytest.raises(ConfigError, match=r"no task nosuch: .*--lm-eval-path"):
            run_tasks(subject, ["nosuch"], include=None, limit=1)
    finally:
        subject.close()
