"""Each architecture computes what transformers computes with the same weights, over prefill, cache and window."""

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.gguf import import_gguf
from tests.ggufs import CONTROLS, tokenizer_metadata, write_file

VOCAB, CONTEXT = 320, 256
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
YARN_METADATA = {
    ".rope.scaling.type": "yarn",
    ".rope.scaling.factor": 4.0,
    ".rope.scaling.original_context_length": 64,
}
GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0, "attention_multiplier": 0.2}
GRANITE_METADATA = {".embedding_scale": 3.0, ".residual_scale": 0.4, ".logit_scale": 2.0, ".attention.scale": 0.2}
PARTIAL = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
SHORT, LONG = [1 + index / 8 for index in range(16)], [4.0 + index for index in range(16)]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 64,
}
"""As in Phi-3 mini with 128k: 60 tokens are a short text, and the attention is scaled by sqrt(1 + ln(4) / ln(64))."""
GEMMA3 = {
    "sliding_window": 16,
    "query_pre_attn_scalar": 32,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    },
}
GEMMA3_METADATA = {
    ".attention.sliding_window": 16,
    ".attention.sliding_window_pattern": 2,
    ".rope.freq_base": 1_000_000.0,
    ".rope.scaling.type": "linear",
    ".rope.scaling.factor": 8.0,
}
GEMMA2_METADATA = {
    ".attention.sliding_window": 16,
    ".attn_logit_softcapping": 20.0,
    ".final_logit_softcapping": 10.0,
}
GEMMA2 = {
    "sliding_window": 16,
    "query_pre_attn_scalar": 32,
    "attn_logit_softcapping": 20.0,
    "final_logit_softcapping": 10.0,
}
CASES = {
    "llama": ("llama", "llama", {}, {}),
    "llama, tied": ("llama", "llama", {"tie_word_embeddings": True}, {}),
    "llama, llama3 rope": ("llama", "llama", {"rope_parameters": LLAMA3}, {}),
    "llama, linear rope": (
        "llama",
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}},
        {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0},
    ),
    "llama, with biases": ("llama", "llama", {"attention_bias": True, "mlp_bias": True}, {}),
    "mistral": ("mistral", "llama", {"sliding_window": None}, {}),
    "mistral, window": ("mistral", "llama", {"sliding_window": 16}, {".attention.sliding_window": 16}),
    "llama, yarn": ("llama", "llama", {"rope_parameters": YARN}, YARN_METADATA),
    "qwen2": ("qwen2", "qwen2", {}, {}),
    "qwen2, yarn": ("qwen2", "qwen2", {"rope_parameters": YARN}, YARN_METADATA),
    "qwen3": ("qwen3", "qwen3", {}, {}),
    "gemma2": ("gemma2", "gemma2", GEMMA2, GEMMA2_METADATA),
    "gemma3": ("gemma3_text", "gemma3", GEMMA3, GEMMA3_METADATA),
    "granite": ("granite", "granite", GRANITE, GRANITE_METADATA),
    "phi3": ("phi3", "phi3", {}, {}),
    "phi3, window": ("phi3", "phi3", {"sliding_window": 16}, {".attention.sliding_window": 16}),
    "phi3, partly rotated, tied": (
        "phi3",
        "phi3",
        {"tie_word_embeddings": True, "rope_parameters": PARTIAL},
        {".rope.dimension_count": 16, ".attention.sliding_window": 262_144},
    ),
    "phi3, longrope": (
        "phi3",
        "phi3",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 64,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        {".rope.scaling.original_context_length": 64, ".rope.scaling.attn_factor": 1.1547005},
    ),
    "smollm3": ("smollm3", "smollm3", {"no_rope_layers": [1, 1, 1, 0], "use_sliding_window": False}, {}),
}


def original(kind: str, options: dict):
    """A model with random weights, large enough that every part of it changes the logits."""
    rope = {} if "rope_parameters" in options else {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    config = AutoConfig.for_model(
        kind,
        **{
            "vocab_size": VOCAB,
            "pad_token_id": 1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.15,
            "tie_word_embeddings": kind.startswith("gemma"),
            "rms_norm_eps": 1e-5,
            **rope,
            **options,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        for name, weights in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                torch.nn.init.normal_(weights, 0.0 if "bias" in name or kind.startswith("gemma") else 1.0, 0.2)
    return model


def paired(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order of queries and keys that llama.cpp's own converter writes for models of the Llama family."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def exported(model, architecture: str) -> dict[str, np.ndarray]:
    """The model's weights under the names and in the form of llama.cpp's converter."""
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    tensors = {}
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = weights.numpy()
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        if architecture in ("llama", "granite", "smollm3"):
            if ".q_proj." in name:
                values = paired(values, config.num_attention_heads)
            elif ".k_proj." in name:
                values = paired(values, config.num_key_value_heads)
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values
    return tensors


def metadata(model, **changes):
    config = model.config
    return {
        ".block_count": config.num_hidden_layers,
        ".embedding_length": config.hidden_size,
        ".feed_forward_length": config.intermediate_size,
        ".context_length": CONTEXT,
        ".attention.head_count": config.num_attention_heads,
        ".attention.head_count_kv": config.num_key_value_heads,
        ".attention.key_length": 32,
        ".attention.value_length": 32,
        ".attention.layer_norm_rms_epsilon": 1e-5,
        ".rope.freq_base": 10_000.0,
        ".rope.dimension_count": 32,
        **tokenizer_metadata(VOCAB),
        **changes,
    }


def imported(model, architecture: str, folder, **changes) -> EdgeModel:
    tensors = exported(model, architecture)
    rope = getattr(model.model, "rotary_emb", None)
    if getattr(model.config, "rope_parameters", {}).get("rope_type") == "llama3":
        plain = 10_000.0 ** -(np.arange(0, 32, 2) / 32)
        tensors["rope_freqs.weight"] = (plain / rope.inv_freq.numpy()).astype(np.float32)
    if getattr(model.config, "rope_parameters", {}).get("rope_type") == "longrope":
        for name, factors in {"long": LONG, "short": SHORT}.items():
            tensors[f"rope_factors_{name}.weight"] = np.array(factors, dtype=np.float32)
    path = write_file(folder / "model.gguf", architecture, tensors, metadata(model, **changes))
    import_gguf(path, folder / "out", name="small")
    return EdgeModel(folder / "out", threads=1, spin=False)


@pytest.mark.parametrize("case", CASES)
def test_an_architecture_computes_what_transformers_computes(tmp_path, case):
    kind, architecture, options, changes = CASES[case]
    model = original(kind, options)
    edge = imported(model, architecture, tmp_path, **changes)
    ids = np.random.default_rng(0).integers(len(CONTROLS), VOCAB, 60).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    sequence = edge.sequence(len(ids))
    ours = [sequence.append(ids[:40]).copy(), sequence.append(ids[40:56]).copy()]
    ours += [sequence.append([token]).copy() for token in ids[56:]]
    theirs = expected[[39, 55, 56, 57, 58, 59]]
    assert np.abs(np.stack(ours) - theirs).max() < 2e-3 * theirs.std()


def test_transformers_reads_the_same_file_alike(tmp_path):
    """The tests' own export is right: transformers' importer, written by others, takes it back to the same model."""
    model = original("llama", {})
    path = write_file(tmp_path / "model.gguf", "llama", exported(model, "llama"), metadata(model))
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    for name, weights in model.state_dict().items():
        torch.testing.assert_close(read[name], weights, msg=name)
