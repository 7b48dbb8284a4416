"""Generators that the builder refuses are traced, and answer as transformers does, token for token."""

from __future__ import annotations

import json
import shutil

import pytest

from hybrid_llm.backends.models import Floor, convert
from hybrid_llm.backends.models.tracing import TRACED
from hybrid_llm.core.errors import ConfigError
from tests.shapes import random_model

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "initializer_range": 0.25,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 1024, "n_positions": 512, "n_embd": 64, "n_layer": 2, "n_head": 4, "initializer_range": 0.25}
CONFIGS = {
    "gpt2": {**GPT2, "tie_word_embeddings": False},
    "gpt_neox": SIZES,
    "opt": {**SIZES, "ffn_dim": 96, "init_std": 0.25, "word_embed_proj_dim": 64},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "smollm3": {**GROUPED, "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "gemma3_text": {
        **GROUPED,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
}


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """The tokenizer and chat template of a tiny model."""
    return random_model("tiny", tmp_path_factory.mktemp("texts") / "hf")


@pytest.fixture
def source(texts, tmp_path):
    """Makes the folder of a small random model of a kind."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")

    def make(kind, **config):
        torch.manual_seed(0)
        made = transformers.AutoConfig.for_model(kind, **config, bos_token_id=0, eos_token_id=1, pad_token_id=1)
        model = transformers.AutoModelForCausalLM.from_config(made)
        folder = tmp_path / "hf"
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
            shutil.copyfile(texts / name, folder / name)
        return folder, type(model).__name__

    return make


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_answers_as_transformers_does(source, tmp_path, kind):
    """Two prompts and 32 steps each, with logits; past every attention window."""
    folder, architecture = source(kind, **CONFIGS[kind])
    assert architecture in TRACED
    parity = convert(folder, tmp_path / "out", "fp32").parity
    assert parity["top1_agreement"] == 1.0
    assert parity["logit_correlation"] > 0.9999
    assert parity["perplexity_after"] == pytest.approx(parity["perplexity_before"], rel=1e-3)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_can_be_smaller(source, tmp_path, precision):
    folder, _ = source("gpt2", **CONFIGS["gpt2"])
    made = convert(folder, tmp_path / "out", precision, parity_floor=Floor(top1_agreement=0.0, logit_correlation=0.9))
    plain = convert(folder, tmp_path / "fp32", "fp32")
    assert made.total_bytes < plain.total_bytes


def test_an_attention_that_depends_on_the_length_is_refused(source, tmp_path):
    folder, _ = source("olmo2", **GROUPED)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    path.write_text(json.dumps({**config, "rope_parameters": rope}))
    with pytest.raises(ConfigError, match="depend on the length"):
        convert(folder, tmp_path / "out", "fp32")
    assert not (tmp_path / "out").exists()
