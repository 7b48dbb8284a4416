"""Every task learns what its data teaches, with all weights or an adapter, and the record says how."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.step import Outcome
from hybrid_llm.prepare.tuning.conversations import IGNORED, Conversations
from tests.prepare.tuning.samples import Samples, curve, labelled, tune, write_data

QUALITY = {
    DataFormat.TEXT: "perplexity",
    DataFormat.CHAT: "perplexity",
    DataFormat.LABELLED: "accuracy",
    DataFormat.TAGGED: "accuracy",
    DataFormat.PREFERENCE: "preferred",
}


def _better(outcome: Outcome, name: str) -> bool:
    before, after = outcome.before[name], outcome.metrics[name]
    return after < before / 3 if name == "perplexity" else after >= max(0.9, before)


@pytest.mark.parametrize("kind", QUALITY)
def test_a_task_is_learnt(kind: DataFormat, samples: Samples, tmp_path: Path) -> None:
    steps = 30 if kind in (DataFormat.LABELLED, DataFormat.TAGGED) else 12
    outcome = tune(samples.model(kind), samples.data(kind), tmp_path, steps=steps, every=10, learning_rate=5e-3)
    assert _better(outcome, QUALITY[kind])
    assert outcome.card["training"]["measured_on"] == "test"
    assert outcome.card["training"]["task"] == kind
    assert len(curve(tmp_path)["train"]) == steps


@pytest.mark.parametrize("kind", [DataFormat.CHAT, DataFormat.LABELLED, DataFormat.PREFERENCE])
def test_an_adapter_learns_too_and_is_merged(kind: DataFormat, samples: Samples, tmp_path: Path) -> None:
    slow = kind is DataFormat.LABELLED  # the body of the encoder is random, and stays
    rates: dict[str, Any] = {"learning_rate": 3e-3, "steps": 80} if slow else {"learning_rate": 2e-2, "steps": 20}
    options = {"method": "lora", "every": 20, **rates}
    outcome = tune(samples.model(kind), samples.data(kind), tmp_path, **options)
    assert _better(outcome, QUALITY[kind])
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_classifier_keeps_its_labels(samples: Samples, tmp_path: Path) -> None:
    tune(samples.encoder, samples.data(DataFormat.LABELLED), tmp_path, steps=2)
    folder = HubFolder.open(tmp_path / "out")
    assert folder.kind is ModelKind.CLASSIFIER
    assert folder.labels == ("wet", "dry")


def test_a_decoder_can_classify(samples: Samples, tmp_path: Path) -> None:
    outcome = tune(samples.decoder, samples.data(DataFormat.LABELLED), tmp_path)
    assert outcome.metrics["accuracy"] >= 0.9


def test_options_that_save_memory_train_nearly_the_same(samples: Samples, tmp_path: Path) -> None:
    data, common = samples.data(DataFormat.TEXT), {"schedule": "cosine", "steps": 6, "every": 6}
    plain = tune(samples.decoder, data, tmp_path / "plain", **common).metrics["loss"]
    for number, options in enumerate(({"accumulate": 4}, {"gradient_checkpointing": True}, {"precision": "bf16"})):
        found = tune(samples.decoder, data, tmp_path / str(number), **common, **options).metrics["loss"]
        assert found == pytest.approx(plain, rel=0.05 if "precision" in options else 1e-3)


def test_the_best_weights_of_validation_are_left(samples: Samples, tmp_path: Path) -> None:
    """What is learnt is wrong of the texts of validation: the weights get worse for them with each step."""
    rng = random.Random(0)
    train, held_out = [labelled(rng) for _ in range(64)], [labelled(rng) for _ in range(12)]
    turned = [{**each, "label": "dry" if each["label"] == "wet" else "wet"} for each in held_out]
    data = write_data(tmp_path / "data", DataFormat.LABELLED, {"train": train, "validation": turned})
    tune(samples.encoder, data, tmp_path, steps=24)
    found = curve(tmp_path)
    losses = dict(found["validation"])
    assert found["best_step"] == min(losses, key=losses.__getitem__)
    assert found["best_step"] < 24


def test_every_row_of_validation_counts_though_they_fill_no_batch(samples: Samples, tmp_path: Path) -> None:
    outcome = tune(samples.decoder, samples.data(DataFormat.CHAT, held_out=5), tmp_path, batch=8, steps=2, every=2)
    ((_, loss),) = curve(tmp_path)["validation"]
    assert loss == pytest.approx(outcome.metrics["loss"], rel=0.5)


def test_without_validation_the_last_weights_are_left(samples: Samples, tmp_path: Path) -> None:
    outcome = tune(samples.decoder, samples.data(DataFormat.CHAT, held_out=0), tmp_path, steps=3)
    assert outcome.metrics == outcome.before == {}
    assert curve(tmp_path)["best_step"] is None


def test_a_given_seed_repeats_a_training(samples: Samples, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tune(samples.encoder, samples.data(DataFormat.TAGGED), tmp_path / name, steps=4)
    assert curve(tmp_path / "one") == curve(tmp_path / "two")


def test_the_curve_is_drawn(samples: Samples, tmp_path: Path) -> None:
    tune(samples.encoder, samples.data(DataFormat.LABELLED), tmp_path)
    drawing = ET.fromstring((tmp_path / "out" / "training.svg").read_text(encoding="utf-8"))
    lines = [each for each in drawing.iter() if each.tag.endswith("polyline")]
    assert [len(each.get("points", "").split()) for each in lines] == [12, 3]


def test_nothing_of_the_trainer_is_left_beside_the_model(samples: Samples, tmp_path: Path) -> None:
    tune(samples.decoder, samples.data(DataFormat.CHAT), tmp_path, steps=2)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not names & {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "whole.json"}
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))["use_cache"] is True


def test_only_what_the_assistant_says_is_learnt(samples: Samples) -> None:
    tokenizer = HubFolder.open(samples.decoder).tokenizer()
    conversation = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "rain?"},
        {"role": "assistant", "content": "yes, rain"},
        {"role": "user", "content": "and now?"},
        {"role": "assistant", "content": "no"},
    ]
    ids, labels = Conversations(tokenizer, samples.decoder).encode(conversation)
    assert labels is not None
    learnt = tokenizer.decode([one for one, label in zip(ids, labels, strict=True) if label != IGNORED])
    assert learnt == "yes, rain<|end|>no<|end|>"


def test_a_template_that_rewrites_earlier_turns_is_learnt_as_a_whole(samples: Samples, tmp_path: Path) -> None:
    tokenizer = HubFolder.open(samples.decoder).tokenizer()
    tokenizer.chat_template = "{{ messages | length }}: {% for m in messages %}{{ m.content }} {% endfor %}"
    messages = [{"role": "user", "content": "say rain"}, {"role": "assistant", "content": "rain"}]
    assert Conversations(tokenizer, samples.decoder).encode(messages)[1] is None


def test_a_template_that_marks_the_answers_is_followed(samples: Samples) -> None:
    tokenizer = HubFolder.open(samples.decoder).tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }} {% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "say rain"}, {"role": "assistant", "content": "rain rain"}]
    ids, labels = Conversations(tokenizer, samples.decoder).encode(messages)
    assert labels is not None
    assert tokenizer.decode([each for each in labels if each != IGNORED]) == "rain rain"
    assert tokenizer.decode(ids) == "say rain rain rain"


def test_a_report_without_its_library_names_it(samples: Samples, tmp_path: Path) -> None:
    from importlib.util import find_spec

    if find_spec("mlflow"):
        pytest.skip("mlflow is installed")
    with pytest.raises(ConfigError, match="pip install mlflow"):
        tune(samples.decoder, samples.data(DataFormat.CHAT), tmp_path, report="mlflow")
