"""Creates models with random weights in the shapes of real ones, for tests and benchmarks without a download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Literal, get_args

from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


Shape = Literal["tiny", "smollm2-135m", "qwen2.5-0.5b"]

_CONTROLS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|bos|>")
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dimensions:
    kind: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    initializer_range: float
    """Large for a shallow model; a deep one with large weights amplifies rounding errors until they dominate."""


_DIMENSIONS: dict[str, _Dimensions] = {
    "tiny": _Dimensions(
        kind="llama",
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.25,
    ),
    "smollm2-135m": _Dimensions(
        kind="llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        initializer_range=0.04,
    ),
    "qwen2.5-0.5b": _Dimensions(
        kind="qwen2",
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        initializer_range=0.04,
    ),
}


def random_model(shape: Shape, out: Path, seed: int = 0, *, layers: int | None = None) -> Path:
    """Write a Hugging Face folder with random weights in *shape* to *out*, tokenizer and chat template included.

    *layers* are those of the shape unless given. The embeddings are not tied: with tied ones a random model repeats its
    last token, whatever the context.

    Returns:
        *out*, which is created if needed.

    Raises:
        ConfigError: the shape is unknown, or the `prepare` extra is not installed.
    """
    if shape not in _DIMENSIONS:
        raise ConfigError(f"unknown shape {shape!r}: choose one of {', '.join(get_args(Shape))}")
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise ConfigError(f"{error}: pip install 'hybrid-llm[prepare]'") from error
    dimensions = _DIMENSIONS[shape]
    if layers is not None:
        dimensions = replace(dimensions, num_hidden_layers=layers)
    out.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.for_model(**_hf_config(dimensions))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(str(out))
    _write_tokenizer(dimensions, out)
    return out


def synthetic_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer with exactly *vocab_size* ids, each with a distinct text.

    The ids are five control tokens, the 256 bytes, then invented syllables (`ab`, `abc`, ...): enough to encode any
    text and to stream any id, without training data.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    names = [*_CONTROLS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = list(islice(_syllables(), vocab_size - len(names)))
    names += [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _CONTROLS])
    return tokenizer


def _syllables() -> Iterator[tuple[str, str]]:
    """Merges that build every sequence of 2, then 3, then 4 letters from the shorter ones."""
    for size in (2, 3, 4):
        for letters in product(ascii_lowercase, repeat=size):
            word = "".join(letters)
            yield word[:-1], word[-1]


def _hf_config(dimensions: _Dimensions) -> dict[str, Any]:
    return {
        "model_type": dimensions.kind,
        "vocab_size": dimensions.vocab_size,
        "hidden_size": dimensions.hidden_size,
        "intermediate_size": dimensions.intermediate_size,
        "num_hidden_layers": dimensions.num_hidden_layers,
        "num_attention_heads": dimensions.num_attention_heads,
        "num_key_value_heads": dimensions.num_key_value_heads,
        "max_position_embeddings": dimensions.max_position_embeddings,
        "tie_word_embeddings": False,
        "initializer_range": dimensions.initializer_range,
        "bos_token_id": _CONTROLS.index("<|bos|>"),
        "eos_token_id": _CONTROLS.index("<|end|>"),
        "pad_token_id": _CONTROLS.index("<|end|>"),
    }


def _write_tokenizer(dimensions: _Dimensions, out: Path) -> None:
    synthetic_tokenizer(dimensions.vocab_size).save(str(out / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|bos|>",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "model_max_length": dimensions.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (out / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
