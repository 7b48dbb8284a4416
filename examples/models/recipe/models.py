"""The two sizes as Llama models: the small one from random weights, the large one grown from the small one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from examples.models.recipe.chat_format import BEGIN_ID, END_ID, PAD_ID
from examples.models.recipe.tokenizer import VOCABULARY


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The shape of a model and how it is trained; widths are multiples of the quantisation block of 128."""

    name: str
    layers: int
    inner: int
    context: int
    steps: int
    matrix_rate: float
    other_rate: float = 0.003
    hidden: int = 256
    heads: int = 4
    key_heads: int = 2
    batch_tokens: int = 3072


EDGE = Size(
    name="edge",
    layers=4,
    inner=768,
    context=512,
    steps=1200,
    matrix_rate=0.015,
)
NODE = Size(
    name="node",
    layers=8,
    inner=1408,
    context=2048,
    steps=1250,
    matrix_rate=0.01,
)
SIZES = {size.name: size for size in (EDGE, NODE)}


def build(size: Size) -> Any:
    """A `LlamaForCausalLM` of *size*; torch's seed decides the weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads,
        tie_word_embeddings=True,
        max_position_embeddings=size.context,
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    return LlamaForCausalLM(config)


def grow(small: Any, large: Any) -> None:
    """Make *large* compute what *small* computes: its layers come first, and what is added contributes zero at first.

    The added layers and the added width of the inner matrices have weights of their own, except that their output
    matrices are zero; training moves these first (function-preserving growth, Chen et al., Net2Net, 2016).
    """
    import torch

    with torch.no_grad():
        for layer in large.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        target = dict(large.named_parameters())
        for name, weight in small.named_parameters():
            corner = tuple(slice(0, length) for length in weight.shape)
            target[name][corner] = weight


def parameters(model: Any) -> int:
    """Count the weights; a shared one counts once."""
    return sum(weight.numel() for weight in model.parameters())
