"""A model with faster modules computes what it computed before, whatever its architecture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hybrid_llm.backends.node.engines import kernels
from hybrid_llm.backends.node.engines.kernels import FusedGate, FusedNorm, PackedLinear, SharedHead, accelerate
from tests.backends.engine.conftest import CONFIGS, transformers

packs = pytest.mark.skipif(not kernels.packs(), reason="this processor or torch has no packed products in bfloat16")
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def made(name, dtype=torch.bfloat16):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=dtype).eval()


def logits(model, length=20):
    with torch.inference_mode():
        return model(torch.arange(length)[None], use_cache=False).logits.float()


def differ(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "gemma4"])  # made in 20 s
def test_the_logits_of_an_architecture_stay_what_they_are(name, dtype):
    model = made(name, dtype)
    before = logits(model)
    accelerate(model)
    assert differ(logits(model), before) < ROUNDING[dtype]
    assert model.dtype == dtype


@packs
@pytest.mark.parametrize("name", ["llama", "qwen3", "mixtral-window", "phi3-window", "olmo3"])
def test_layers_and_norms_become_faster_ones_of_the_same_name_and_size(name):
    model = made(name)
    sizes = {at: each.weight.shape for at, each in model.named_modules() if type(each) is nn.Linear}
    assert accelerate(model) > len(sizes)
    for at, size in sizes.items():
        layer = model.get_submodule(at)
        assert isinstance(layer, PackedLinear)
        assert layer.weight.shape == size == (layer.out_features, layer.in_features)
    assert isinstance(model.model.norm, FusedNorm)


@packs
def test_the_embedding_that_is_the_head_too_stays_in_its_layout():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**CONFIGS["llama"]().to_dict(), "tie_word_embeddings": True})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    before = logits(model), logits(model, 1)
    accelerate(model)
    assert isinstance(model.lm_head, SharedHead)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert max(map(differ, (logits(model), logits(model, 1)), before)) < ROUNDING[torch.bfloat16]


@packs
@pytest.mark.parametrize(("name", "activation", "fused"), [("llama", "silu", True), ("llama", "gelu", False)])
def test_a_gated_layer_becomes_one_of_the_same_names_if_its_activation_is_silu(name, activation, fused):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**CONFIGS[name]().to_dict(), "hidden_act": activation})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    names, before = {at for at, _ in model.named_modules() if at.endswith("_proj")}, logits(model)
    accelerate(model)
    assert isinstance(model.model.layers[0].mlp, FusedGate) == fused
    assert names == {at for at, _ in model.named_modules() if at.endswith("_proj")}
    assert differ(logits(model), before) < ROUNDING[torch.bfloat16]


@packs
@pytest.mark.parametrize("part", ["gate_proj", "up_proj", "down_proj"])
def test_what_wraps_a_part_of_a_fused_layer_changes_what_it_computes(part):
    changed = []
    for faster in (True, False):
        model = made("llama")
        if faster:
            assert accelerate(model)
        layer = model.model.layers[0].mlp.get_submodule(part)
        layer.forward = lambda values, own=layer.forward: 3 * own(values)
        changed.append(logits(model))
    assert differ(*changed) < ROUNDING[torch.bfloat16]
    assert differ(changed[0], logits(made("llama"))) > ROUNDING[torch.bfloat16]


@packs
@given(rows=st.lists(st.integers(0, 40), min_size=1, max_size=2), width=st.integers(1, 70), bias=st.booleans())
def test_a_fused_layer_is_the_layer_for_inputs_of_any_shape(rows, width, bias):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=width, intermediate_size=2 * width + 1, num_attention_heads=1, head_dim=2, mlp_bias=bias
    )
    layer = transformers.models.llama.modeling_llama.LlamaMLP(config).to(torch.bfloat16)
    values = torch.randn((*rows, width), dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = layer(values)
        for name in ("gate_proj", "up_proj", "down_proj"):
            layer.set_submodule(name, PackedLinear(layer.get_submodule(name)))
        torch.testing.assert_close(FusedGate(layer)(values), expected, atol=1e-2, rtol=2e-2)


def test_a_norm_of_another_formula_is_left_as_it_is():
    model = made("gemma2", torch.float32)  # it multiplies by 1 + weight
    assert accelerate(model) == 0
    assert type(model.model.norm).__name__ == "Gemma2RMSNorm"


@packs
def test_a_module_that_is_wrapped_is_left_as_it_is():
    model = made("llama")
    wrapped = model.model.layers[0].self_attn.q_proj
    own = wrapped.forward
    wrapped.forward = lambda values: own(values) + 1
    before = logits(model)
    accelerate(model)
    assert model.model.layers[0].self_attn.q_proj is wrapped
    assert differ(logits(model), before) < ROUNDING[torch.bfloat16]


class ReadsWeights(nn.Module):
    """Multiplies by the weights of its layer itself."""

    dtype = torch.bfloat16
    device = torch.device("cpu")
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=9))

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 32, dtype=self.dtype)
        self.layer = nn.Linear(32, 9, dtype=self.dtype)

    def forward(self, ids, **_):
        return SimpleNamespace(logits=self.embed(ids) @ self.layer.weight.t() + self.layer.bias)


@packs
def test_all_is_put_back_where_the_model_reads_weights_that_would_move(caplog):
    caplog.set_level("INFO")
    model = ReadsWeights()
    weight, before = model.layer.weight.clone(), logits(model, 9)
    assert accelerate(model) == 0
    assert "stay what they are" in caplog.text
    assert type(model.layer) is nn.Linear
    assert torch.equal(model.layer.weight, weight)
    assert torch.equal(logits(model, 9), before)


@packs
@given(
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=2),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    bias=st.booleans(),
    transposed=st.booleans(),
)
def test_a_packed_layer_is_the_layer_for_inputs_of_any_shape(rows, width, height, bias, transposed):
    torch.manual_seed(0)
    layer = nn.Linear(width, height, bias=bias, dtype=torch.bfloat16)
    values = torch.randn((*rows, width), dtype=torch.bfloat16)
    if transposed:
        values = values.transpose(0, -1).contiguous().transpose(0, -1)
    packed = PackedLinear(layer)
    with torch.inference_mode():
        torch.testing.assert_close(packed(values), layer(values), atol=1e-2, rtol=1e-2)
    assert torch.equal(packed.original().weight, layer.weight)
