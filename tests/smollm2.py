"""SmolLM2-135M-Instruct as both sides open it, from one GGUF: a model folder of the device, and one of a node."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models import gguf
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.decoder import rotation_order
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.shape import Shape, read_shape
from tests.weights import smollm2_gguf

_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""The parts of a layer: llama.cpp's name -> transformers'."""


def edge_folder() -> Path:
    """The folder of the device, made once for each state of the importer's code, and shared: do not change it.

    Raises:
        Unreachable: the weights are not cached and cannot be downloaded.
    """
    return _made("edge", lambda folder: import_gguf(smollm2_gguf(), folder, name="smollm2-135m"))


def node_folder() -> Path:
    """The folder of a node, made as `edge_folder` is. Raises `Unreachable` as it does."""
    edge = edge_folder()
    return _made("node", lambda folder: write_node_folder(smollm2_gguf(), edge, folder))


def _made(side: str, make: Callable[[Path], object]) -> Path:
    cache = smollm2_gguf().parent
    folder = cache / f"smollm2-{side}-{_code_digest()}"
    with (cache / f".{side}.lock").open("w") as lock:  # groups of tests run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            for old in cache.glob(f"smollm2-{side}-*"):
                shutil.rmtree(old)
            scratch = cache / f"new-{side}"
            shutil.rmtree(scratch, ignore_errors=True)
            make(scratch)
            scratch.rename(folder)
    return folder


def _code_digest() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(Path(gguf.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def write_node_folder(source: Path, edge: Path, node: Path) -> None:
    """Write *source*, a Llama, as a folder of transformers, with the chat files of *edge*; weights as bfloat16."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(edge, node, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.*", "*genai*", "manifest*"))
    with Gguf(source) as file:
        shape = read_shape(file)
        order = rotation_order(shape.head_size)
        tensors = {}
        for name, tensor in file.tensors.items():
            values = read_dense(file, tensor).reshape(tensor.shape)
            values = order(values) if name.endswith(("attn_q.weight", "attn_k.weight")) else values
            tensors[_name(name)] = torch.from_numpy(values.copy()).to(torch.bfloat16)
        base = file.metadata["llama.rope.freq_base"]
    save_file(tensors, node / "model.safetensors", metadata={"format": "pt"})
    eos = json.loads((node / "generation_config.json").read_text("utf-8"))["eos_token_id"]
    config = {**_config(shape), "rope_theta": base, "eos_token_id": eos}
    (node / "config.json").write_text(json.dumps(config), "utf-8")


def _name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{_NAMES[part]}.{kind}"


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
