"""Adapters: left apart, merged to the same logits, refused with a wrong base, and served by the node."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind
from hybrid_llm.prepare.step import Input, Outcome, Work
from hybrid_llm.prepare.tuning.adapters import Merge
from tests.prepare.tuning.samples import Samples, tune, write_data
from tests.shapes import random_model


@pytest.fixture(scope="module")
def adapter(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    options = {"method": "lora", "merge": False, "learning_rate": 2e-2}
    tune(samples.decoder, samples.data(DataFormat.CHAT), folder, **options)
    return folder / "out"


def _merge(adapter: Path, out: Path, **options: object) -> Outcome:
    out.mkdir(parents=True)
    return Merge(adapter=Input(str(adapter)), **options).run(Work(out=out, scratch=out))  # type: ignore[arg-type]


def test_the_base_is_named_and_not_copied(adapter: Path, samples: Samples) -> None:
    assert not (adapter / "model.safetensors").exists()
    assert HubFolder.open(adapter).base == samples.decoder
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))
    assert size < (samples.decoder / "model.safetensors").stat().st_size / 4


def test_a_merged_model_has_the_logits_of_base_and_adapter(adapter: Path, tmp_path: Path) -> None:
    import torch

    outcome = _merge(adapter, tmp_path / "merged")
    assert outcome.metrics["largest_logit_difference"] < 1e-4
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.inference_mode():
        found, expected = (
            HubFolder.open(p).model(ModelKind.CAUSAL)(ids).logits for p in (tmp_path / "merged", adapter)
        )
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_merge_over_the_tolerance_is_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="raise `tolerance`, or use fp32"):
        _merge(adapter, tmp_path / "merged", precision="bf16", tolerance=1e-6)


def test_an_adapter_of_a_classifier_keeps_head_and_labels(samples: Samples, tmp_path: Path) -> None:
    options = {"method": "lora", "merge": False, "steps": 80, "every": 40}
    outcome = tune(samples.encoder, samples.data(DataFormat.LABELLED), tmp_path, **options)
    assert outcome.metrics["accuracy"] >= 0.9
    merged = _merge(tmp_path / "out", tmp_path / "merged")
    assert merged.metrics["largest_logit_difference"] < 1e-4
    assert HubFolder.open(tmp_path / "merged").labels == ("wet", "dry")


def test_another_base_than_the_adapter_was_trained_on_is_refused(adapter: Path, tmp_path: Path) -> None:
    other = random_model("tiny", tmp_path / "other", seed=5)
    with pytest.raises(ConfigError, match="was trained on other weights"):
        _merge(adapter, tmp_path / "merged", base=Input(str(other)))


def test_a_whole_model_is_no_adapter(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no adapter"):
        _merge(samples.decoder, tmp_path / "merged")


def test_an_adapter_is_not_tuned_again_before_it_is_merged(adapter: Path, samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="merge it first"):
        tune(adapter, samples.data(DataFormat.CHAT), tmp_path)


def test_the_node_serves_an_adapter_as_if_it_were_merged(adapter: Path, tmp_path: Path) -> None:
    _merge(adapter, tmp_path / "merged")
    assert _answer(adapter) == _answer(tmp_path / "merged")


@pytest.mark.parametrize(
    ("harm", "message"), [("base", "no model folder here"), ("weights", "trained on other weights")]
)
def test_the_node_refuses_an_adapter_without_its_base(harm: str, message: str, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    named = "/nowhere" if harm == "base" else str(random_model("tiny", tmp_path / "other", seed=5))
    settings = json.loads((broken / "adapter_config.json").read_text("utf-8")) | {"base_model_name_or_path": named}
    (broken / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(ConfigError, match=message):
        _answer(broken)


def _answer(folder: Path) -> list[int]:
    """Greedy tokens of the node's engine."""
    from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
    from hybrid_llm.backends.node.engines.load import load_engine

    engine = load_engine(EngineConfig(model=folder, threads=1, max_slots=1, kv_tokens=256, dtype="fp32"))
    engine.submit(EngineRequest(request_id="one", prompt_ids=(5, 9, 300, 17), max_tokens=12))
    found: list[int] = []
    while not engine.idle:
        for output in engine.step():
            found += output.token_ids
    return found


@pytest.mark.weights
@pytest.mark.slow
def test_a_gguf_of_real_weights_learns_by_an_adapter(smollm2_gguf: Path, smollm2_scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "imported").symlink_to(smollm2_scratch / "imported")
    line = "The tide gauge at Norderney reports the level of the sea every ten minutes."
    splits = {"train": [{"text": line}] * 12, "test": [{"text": line}] * 2}
    data = write_data(tmp_path / "data", DataFormat.TEXT, splits)
    options = {"method": "lora", "steps": 4, "batch": 2, "max_length": 16, "learning_rate": 2e-3, "every": 4}
    outcome = tune(smollm2_gguf, data, tmp_path, **options)
    assert 1 < outcome.metrics["perplexity"] < outcome.before["perplexity"] / 2
