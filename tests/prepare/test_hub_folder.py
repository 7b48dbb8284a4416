"""Hugging Face folders: opened offline, checked before their weights are read, adapters merged on the fly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind, NotEnoughMemory, require_free
from hybrid_llm.prepare.hub_gguf import open_for_work
from tests.shapes import random_model

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("tiny", tmp_path_factory.mktemp("models") / "decoder")


def test_a_folder_reports_what_it_holds(decoder: Path) -> None:
    folder = HubFolder.open(decoder)
    assert folder.kind is ModelKind.CAUSAL
    assert folder.window == 2048
    model = folder.model(ModelKind.CAUSAL)
    assert folder.parameters() == sum(each.numel() for each in model.parameters())
    assert not model.training
    assert folder.tokenizer().pad_token == "<|end|>"


def test_a_body_gets_a_new_head_of_the_labels(decoder: Path) -> None:
    model = HubFolder.open(decoder).model(ModelKind.CLASSIFIER, labels=("bad", "good", "none"))
    assert model.config.id2label == {0: "bad", 1: "good", 2: "none"}
    assert model.num_labels == 3


def test_a_model_without_the_head_is_refused_where_none_may_be_new(decoder: Path) -> None:
    with pytest.raises(ConfigError, match="another kind of model"):
        HubFolder.open(decoder).model(ModelKind.CLASSIFIER)


def test_memory_is_checked_before_weights_are_read(decoder: Path) -> None:
    with pytest.raises(NotEnoughMemory, match=r"training .*decoder takes .* GB of memory .* free: use a smaller"):
        HubFolder.open(decoder).require_memory(1e9, "training")
    with pytest.raises(NotEnoughMemory) as caught:
        require_free(10**12, 4.0, "loading", decoder)
    assert caught.value.needed == 4 * 10**12 > caught.value.free > 0


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut weights", "broken config", "device model", "gguf"])
def test_a_folder_that_cannot_be_used_is_refused(decoder: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / ("x.gguf" if damage == "gguf" else "model")
    shutil.copytree(decoder, folder)
    if damage in ("no config", "device model"):
        (folder / "config.json").unlink()
    if damage == "device model":
        (folder / "genai_config.json").write_text("{}")
    if damage == "broken config":
        (folder / "config.json").write_text("{")
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    if damage == "cut weights":
        (folder / "model.safetensors").write_bytes((decoder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ConfigError):
        HubFolder.open(folder).model(ModelKind.CAUSAL)


def test_an_adapter_is_merged_into_its_base(decoder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    base = HubFolder.open(decoder).model(ModelKind.CAUSAL)
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(str(tmp_path / "adapter"))
    ids = torch.tensor([[5, 9, 300, 17]])
    with torch.no_grad():
        expected = adapted.eval()(ids).logits
        found = HubFolder.open(tmp_path / "adapter").model(ModelKind.CAUSAL)(ids).logits
    assert torch.allclose(found, expected, atol=1e-4)


def test_an_adapter_whose_base_is_gone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/nowhere/at/all"}))
    with pytest.raises(ConfigError, match="name its base"):
        HubFolder.open(tmp_path)


@pytest.mark.weights
def test_a_gguf_file_becomes_a_folder_for_work(smollm2_gguf: Path, smollm2_scratch: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in smollm2_scratch.rglob("*")}
    folder = open_for_work(smollm2_gguf, smollm2_scratch)
    assert made == {path: path.stat().st_mtime_ns for path in smollm2_scratch.rglob("*")}, "it is imported once"
    model, tokenizer = folder.model(ModelKind.CAUSAL), folder.tokenizer()
    ids = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = int(model(**ids).logits[0, -1].argmax())
    assert tokenizer.decode(best) == " Paris"
    assert tokenizer.chat_template
