"""Nothing of a model folder runs code, whatever reads it, and even if somebody answers yes to a question about it."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from hybrid_llm.backends.models.convert import convert
from hybrid_llm.backends.models.encoders import convert_encoder
from hybrid_llm.backends.models.parity import measure_parity
from hybrid_llm.backends.models.tracing import trace
from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.evaluation.folders import open_folder
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind

MODELS = Path(__file__).parents[2] / "examples" / "models"
EDGE = Path(__file__).parents[2] / "hybrid_llm" / "backends" / "edge" / "models" / "hybrid-demo-edge"
CLASSES = "from transformers import {} as Config, {} as Model, PreTrainedTokenizerFast as Tokenizer\n"
KINDS = {"decoder": ("LlamaConfig", "LlamaForCausalLM"), "encoder": ("BertConfig", "BertForSequenceClassification")}
READERS = {
    "evaluate": lambda folder, out: open_folder(folder, "AutoModelForCausalLM", "decoder"),
    "trace": lambda folder, out: trace(folder, out, "fp32", 32),
    "compare": lambda folder, out: measure_parity(folder, EDGE, steps=1),
    "convert": lambda folder, out: convert(folder, out, "fp32"),
    "tune": lambda folder, out: HubFolder.open(folder).model(ModelKind.CAUSAL),
    "tokenise": lambda folder, out: HubFolder.open(folder).tokenizer(),
    "serve": lambda folder, out: load_engine(EngineConfig(model=folder)),
    "convert an encoder": lambda folder, out: convert_encoder(folder, out, "fp32"),
}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a folder whose code writes the file `ran`; whoever asks on the terminal is told yes."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))

    def make(kind: str) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(MODELS / "hybrid-demo-node", folder)
        config, model = KINDS[kind]
        code = {"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer", None]}
        code |= dict.fromkeys(("AutoModelForCausalLM", "AutoModelForSequenceClassification"), "code.Model")
        change = {"auto_map": code, "model_type": "unheard-of", "architectures": [model]}
        for name in ("config.json", "tokenizer_config.json"):
            path = folder / name
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        write = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        (folder / "code.py").write_text(write + CLASSES.format(config, model))
        return folder

    return make


@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_model_folder_is_not_run(made, tmp_path, reader):
    folder = made("encoder" if "encoder" in reader else "decoder")
    with suppress(ConfigError, ValueError):  # some of them need no code to read it
        READERS[reader](folder, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("reader", ["evaluate", "convert", "tune", "serve", "convert an encoder"])
def test_weights_in_a_pickle_are_not_read(tmp_path, reader):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "model"
    shutil.copytree(MODELS / "hybrid-demo-node", folder)
    if "encoder" in reader:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": [KINDS["encoder"][1]]}))
    torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), folder / "pytorch_model.bin")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(ConfigError):
        READERS[reader](folder, tmp_path / "out")
