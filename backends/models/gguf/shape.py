"""The shape of a decoder, from the metadata of its GGUF file: sizes, attention windows, rotary frequencies, factors.

Metadata that this module does not know is refused: it may change the computation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.models.gguf.blocks import PLAIN, read_dense
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.rope import Rope, rope

CONTEXT_LIMIT: Final = 32_768
"""Tokens: the tables of rotary embeddings and of keys and values end here, whatever the model was trained for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What an architecture does beside the plain decoder of Llama."""

    interleaved: bool = False
    """Rows of queries and keys are in pairs for rotation, as llama.cpp writes them for this architecture."""
    gelu: bool = False
    post_norms: bool = False
    """A norm behind the attention and one behind the feed-forward network."""
    qk_norms: bool = False
    embedding_scaled: bool = False
    """Embeddings are multiplied by the square root of their length."""
    windowed: bool = False
    """The file may name an attention window."""
    alternating: int = 0
    """Of so many layers the last has no attention window, unless the file names another pattern; 0: all have it."""
    fused: bool = False
    """Queries, keys and values may be one matrix, gate and up another: see `layout.split_fused`."""


TRAITS: Final = {
    "llama": Traits(interleaved=True, windowed=True),
    "qwen2": Traits(),
    "qwen3": Traits(qk_norms=True),
    "gemma2": Traits(gelu=True, post_norms=True, embedding_scaled=True, windowed=True, alternating=2),
    "gemma3": Traits(gelu=True, post_norms=True, qk_norms=True, embedding_scaled=True, windowed=True, alternating=6),
    "granite": Traits(interleaved=True),
    "smollm3": Traits(interleaved=True),
    "phi3": Traits(fused=True, windowed=True),
}
_KNOWN: Final = frozenset({
    "block_count", "embedding_length", "feed_forward_length", "context_length", "vocab_size",
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "attention.sliding_window", "attention.sliding_window_pattern",
    "attention.scale",
    "attn_logit_softcapping", "final_logit_softcapping", "embedding_scale", "residual_scale", "logit_scale",
    "rope.dimension_count", "rope.freq_base", "rope.freq_base_swa", "rope.scale_linear", "rope.scaling.type",
    "rope.scaling.factor", "rope.scaling.attn_factor", "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.finetuned", "tensor_data_layout",
})  # fmt: skip
_LONG_FACTORS: Final = "rope_factors_long.weight"
_SHORT_FACTORS: Final = "rope_factors_short.weight"
_FACTORS: Final = frozenset({"embedding_scale", "residual_scale", "logit_scale", "attention.scale"})
_SOFTCAPS: Final = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes and constants of one decoder."""

    architecture: str
    traits: Traits
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context: int
    epsilon: float
    attention_scale: float
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    windows: tuple[int, ...]
    """Per layer, the number of positions that are attended to, the current one included; 0 for all."""
    ropes: tuple[Rope | None, ...]
    """Per layer; None where positions are not encoded."""

    @property
    def rotary_size(self) -> int:
        """How many numbers of a head are rotated, the first ones."""
        return max((2 * len(rope.frequencies) for rope in self.ropes if rope is not None), default=self.head_size)


def read_shape(file: Gguf) -> Shape:
    """Read and check the shape of the model in *file*.

    Raises:
        ConfigError: the architecture is not supported, or its metadata is incomplete, unknown or out of range.
    """
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in TRAITS:
        known = ", ".join(TRAITS)
        raise file.refuse(f"has the architecture {str(architecture)[:40]!r}, which cannot be imported: use {known}")
    return _Reader(file, architecture).shape()


class _Reader:
    def __init__(self, file: Gguf, architecture: str) -> None:
        self._file, self._architecture, self._traits = file, architecture, TRAITS[architecture]
        prefix = f"{architecture}."
        self._values = {key.removeprefix(prefix): v for key, v in file.metadata.items() if key.startswith(prefix)}

    def shape(self) -> Shape:
        self._check_known()
        layers, hidden = self._whole("block_count", 1, 1000), self._whole("embedding_length", 16, 1 << 16)
        heads = self._whole("attention.head_count", 1, 1024)
        kv_heads = self._whole("attention.head_count_kv", 1, 1024, heads)
        head_size = self._whole("attention.key_length", 16, 1024, hidden // heads)
        rotary = self._rotary_size(heads, kv_heads, head_size)
        context = self._context()
        windows = self._windows(layers, context)
        return Shape(
            architecture=self._architecture,
            traits=self._traits,
            layers=layers,
            hidden=hidden,
            inner=self._whole("feed_forward_length", 16, 1 << 20),
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            vocab_size=self._vocab_size(hidden),
            context=context,
            epsilon=self._real("attention.layer_norm_rms_epsilon", 1e-12, 0.1),
            attention_scale=self._attention_scale(layers, hidden, heads, head_size),
            embedding_scale=self._embedding_scale(hidden),
            residual_scale=self._real("residual_scale", 1e-4, 1e4, 1.0),
            logit_scale=1 / self._real("logit_scale", 1e-4, 1e4, 1.0),
            attention_softcap=self._softcap("attn_logit_softcapping", 50.0),
            logit_softcap=self._softcap("final_logit_softcapping", 30.0),
            windows=windows,
            ropes=self._ropes(windows, rotary),
        )

    def _check_known(self) -> None:
        allowed = _KNOWN if self._architecture == "granite" else _KNOWN - _FACTORS
        allowed = allowed if self._architecture.startswith("gemma") else allowed - _SOFTCAPS
        for key, value in self._values.items():
            if key not in allowed and not self._is_nothing(key, value):
                raise self._file.refuse(
                    f"has {self._architecture}.{key[:80]}, which is not known and may change the computation: "
                    "it cannot be imported"
                )

    @staticmethod
    def _is_nothing(key: str, value: Any) -> bool:
        """Whether this is for images, or switches off what it names."""
        return key.startswith("mm.") or (isinstance(value, bool | int | float) and not value)

    def _rotary_size(self, heads: int, kv_heads: int, head_size: int) -> int:
        """How many numbers of a head are rotated, the first ones, once the sizes of heads fit together."""
        rotary = self._whole("rope.dimension_count", 16, 1024, head_size)
        values = self._whole("attention.value_length", 16, 1024, head_size)
        partly = rotary % 16 == 0 and rotary < head_size and not self._traits.interleaved
        if heads % kv_heads or head_size % 16 or not (rotary == head_size or partly) or values != head_size:
            raise self._file.refuse(
                f"has {heads} heads, {kv_heads} for keys and values, of {head_size} numbers, {rotary} of them rotated, "
                f"and {values} for values: these cannot be computed together by onnxruntime's attention"
            )
        return rotary

    def _context(self) -> int:
        """The context window; where long texts are rotated by other factors, the length of short ones.

        What is in the cache of keys was rotated by the factors for short texts, so they hold for a whole conversation.
        """
        context = min(self._whole("context_length", 2, 1 << 24), CONTEXT_LIMIT)
        if _LONG_FACTORS not in self._file.tensors:
            return context
        return min(context, self._whole("rope.scaling.original_context_length", 2, 1 << 24))

    def _vocab_size(self, hidden: int) -> int:
        tensor = self._file.tensors.get("token_embd.weight")
        if tensor is None or len(tensor.shape) != 2 or tensor.columns != hidden or not 2 <= tensor.rows <= 1 << 20:
            raise self._file.refuse(f"token_embd.weight is missing, or not a matrix with rows of {hidden} numbers")
        return tensor.rows

    def _windows(self, layers: int, context: int) -> tuple[int, ...]:
        window = self._whole("attention.sliding_window", 0, 1 << 31, 0)
        if not 0 < window < context:
            return (0,) * layers
        if not self._traits.windowed:
            raise self._file.refuse("has a sliding window, which is not known for this architecture")
        pattern = self._values.get("attention.sliding_window_pattern")
        if isinstance(pattern, np.ndarray) and len(pattern) == layers:  # which layers have the window
            return tuple(window if local else 0 for local in pattern)
        period = self._whole("attention.sliding_window_pattern", 1, 1000, self._traits.alternating or layers + 1)
        return tuple(window if (layer + 1) % period else 0 for layer in range(layers))

    def _attention_scale(self, layers: int, hidden: int, heads: int, head_size: int) -> float:
        if "attention.scale" in self._values:
            return self._real("attention.scale", 1e-4, 10.0)
        largest = {"gemma2": 46, "gemma3": 62}  # layers of the models with 27 billion parameters
        size = hidden / heads if layers == largest.get(self._architecture) else head_size
        return 1 / math.sqrt(size)

    def _embedding_scale(self, hidden: int) -> float:
        return math.sqrt(hidden) if self._traits.embedding_scaled else self._real("embedding_scale", 1e-4, 1e4, 1.0)

    def _softcap(self, key: str, usual: float) -> float:
        return self._real(key, 0.0, 1e4, usual if self._architecture == "gemma2" else 0.0)

    def _ropes(self, windows: tuple[int, ...], rotary: int) -> tuple[Rope | None, ...]:
        everywhere = rope(self._file, self._values, rotary, self._factors(rotary))
        if self._architecture == "smollm3":
            return tuple(None if (layer + 1) % 4 == 0 else everywhere for layer in range(len(windows)))
        if self._architecture != "gemma3":
            return (everywhere,) * len(windows)
        local = Rope.plain(self._real("rope.freq_base_swa", 1.0, 1e12, 10_000.0), rotary)
        return tuple(local if window else everywhere for window in windows)

    def _factors(self, rotary: int) -> NDArray[np.float64] | None:
        """Divisors of the frequencies, which newer Llama models have, and Phi-3 for texts of usual length."""
        name = _SHORT_FACTORS if _LONG_FACTORS in self._file.tensors else "rope_freqs.weight"
        tensor = self._file.tensors.get(name)
        if tensor is None:
            return None
        if tensor.shape != (rotary // 2,) or tensor.kind.name not in PLAIN:
            raise self._file.refuse(f"{name} must hold {rotary // 2} numbers")
        factors: NDArray[np.float64] = read_dense(self._file, tensor)[0].astype(np.float64)
        if factors.min() <= 0:
            raise self._file.refuse(f"{name} must hold positive numbers")
        return factors

    def _whole(self, key: str, low: int, high: int, usual: int | None = None) -> int:
        value = self._values.get(key, usual)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = int(value[0])  # one number a layer, all the same
        if type(value) is not int or not low <= value <= high:
            raise self._file.refuse(f"{self._architecture}.{key} must be a whole number from {low:,} to {high:,}")
        return value

    def _real(self, key: str, low: float, high: float, usual: float | None = None) -> float:
        value = self._values.get(key, usual)
        if not isinstance(value, int | float) or not low <= value <= high:
            raise self._file.refuse(f"{self._architecture}.{key} must be a number from {low:g} to {high:g}")
        return float(value)
