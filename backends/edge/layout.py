"""A model folder's `genai_config.json` as checked numbers and names. The runtime takes wrong ones silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_llm.backends.edge.manifest import Manifest
from hybrid_llm.router.errors import ConfigError

__all__ = ["ModelLayout", "read_layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLayout:
    """Names of the graph's inputs and outputs, and the sizes of its key-value cache."""

    filename: str
    input_ids: str
    attention_mask: str
    position_ids: str | None
    logits: str
    past_keys: tuple[str, ...]
    past_values: tuple[str, ...]
    present_keys: tuple[str, ...]
    present_values: tuple[str, ...]
    kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int

    @property
    def layers(self) -> int:
        """Number of layers with a cache."""
        return len(self.past_keys)

    def kv_shape(self, capacity: int) -> tuple[int, int, int, int]:
        """Shape of one cache tensor for *capacity* tokens: batch, heads, tokens, head size."""
        return (1, self.kv_heads, capacity, self.head_size)

    def kv_bytes_per_token(self, item_size: int) -> int:
        """Bytes of keys and values of all layers for one token, with *item_size* bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_size * item_size


def read_layout(folder: Path, manifest: Manifest) -> ModelLayout:
    """Read and check `genai_config.json` of *folder*.

    Raises:
        ConfigError: a value is missing, of a wrong kind, out of range, or differs from the manifest.
    """
    path = folder / "genai_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        layout = _parse(config["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not usable ({error!r}): convert the model again", path=str(path)) from error
    _check_against(path, layout, manifest)
    return layout


def _parse(model: Mapping[str, Any]) -> ModelLayout:
    decoder = model["decoder"]
    inputs, outputs = decoder["inputs"], decoder["outputs"]
    layers = _whole(decoder, "num_hidden_layers", 1, 1000)
    return ModelLayout(
        filename=_filename(decoder),
        input_ids=_name(inputs, "input_ids"),
        attention_mask=_name(inputs, "attention_mask"),
        position_ids=_name(inputs, "position_ids") if "position_ids" in inputs else None,
        logits=_name(outputs, "logits"),
        past_keys=_per_layer(inputs, "past_key_names", layers),
        past_values=_per_layer(inputs, "past_value_names", layers),
        present_keys=_per_layer(outputs, "present_key_names", layers),
        present_values=_per_layer(outputs, "present_value_names", layers),
        kv_heads=_whole(decoder, "num_key_value_heads", 1, 1024),
        head_size=_whole(decoder, "head_size", 1, 4096),
        vocab_size=_whole(model, "vocab_size", 2, 1 << 24),
        context_length=_whole(model, "context_length", 2, 1 << 24),
    )


def _whole(section: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = section[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} must be a whole number from {low} to {high}")
    return value


def _name(section: Mapping[str, Any], key: str) -> str:
    value = section[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a name")
    return value


def _per_layer(section: Mapping[str, Any], key: str, layers: int) -> tuple[str, ...]:
    pattern = _name(section, key)
    if pattern.count("%d") != 1:
        raise ValueError(f"{key} must hold %d once")
    return tuple(pattern.replace("%d", str(layer)) for layer in range(layers))


def _filename(decoder: Mapping[str, Any]) -> str:
    name = _name(decoder, "filename")
    if Path(name).name != name:
        raise ValueError("filename must be a plain file name")
    return name


def _check_against(path: Path, layout: ModelLayout, manifest: Manifest) -> None:
    if layout.filename not in manifest.files:
        raise ConfigError(f"{path} names {layout.filename}, which the manifest does not list", path=str(path))
    for key, ours, theirs in (
        ("vocab_size", layout.vocab_size, manifest.vocab_size),
        ("context_length", layout.context_length, manifest.context_window),
    ):
        if ours != theirs:
            raise ConfigError(
                f"{path} says {key} {ours}, the manifest says {theirs}: convert the model again", path=str(path)
            )
