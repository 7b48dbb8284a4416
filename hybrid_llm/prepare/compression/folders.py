"""What kind of model a folder holds, and opening and saving the kinds that can be trained."""

from __future__ import annotations

import shutil
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.folder import MANIFEST_NAME
from hybrid_llm.backends.encoder.files import FILES
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.hub_folder import HubFolder, ModelKind

_TOKENIZER: Final = "tokenizer.json"
_CHAT_FILES: Final = (_TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


class Kind(StrEnum):
    """What a folder holds."""

    DECODER = "decoder"
    """A generator, as transformers saves it."""
    CLASSIFIER = "classifier"
    """A classifier of texts, as transformers saves it."""
    DEVICE_DECODER = "device decoder"
    """A generator as a model folder of the device."""
    DEVICE_ENCODER = "device encoder"
    """A classifier of texts as ONNX."""

    @property
    def generates(self) -> bool:
        """Whether it writes text."""
        return self in {Kind.DECODER, Kind.DEVICE_DECODER}


_KINDS: Final = {Kind.DECODER: ModelKind.CAUSAL, Kind.CLASSIFIER: ModelKind.CLASSIFIER}


def kind_of(folder: Path) -> Kind:
    """The kind of the model in *folder*.

    Raises:
        ConfigError: it is no model that can be compressed.
    """
    if (folder / MANIFEST_NAME).is_file() and (folder / "genai_config.json").is_file():
        return Kind.DEVICE_DECODER
    if all((folder / name).is_file() for name in FILES):
        return Kind.DEVICE_ENCODER
    found = HubFolder.open(folder).kind
    for kind, of in _KINDS.items():
        if found is of:
            return kind
    remedy = "" if found else "; tune it on labelled data first (`hybrid-llm models tune`)"
    held = found or "a model without a head"
    message = f"{folder} holds {held}: expected a generator or a classifier of texts{remedy}"
    raise ConfigError(message, path=str(folder))


def trainable_kind(folder: Path) -> Kind:
    """The kind of a Hugging Face folder.

    Raises:
        ConfigError: it is a folder of the device, or no model.
    """
    kind = kind_of(folder)
    if kind not in _KINDS:
        message = f"{folder} is converted for the device: name the Hugging Face folder that it was made from"
        raise ConfigError(message, path=str(folder))
    return kind


def open_model(folder: Path) -> Any:
    """The model of a Hugging Face folder in float32, with an attention that hooks can follow.

    Raises:
        ConfigError: it does not fit into memory, or cannot be loaded.
    """
    return HubFolder.open(folder).model(_KINDS[trainable_kind(folder)], attn_implementation="eager")


def open_tokenizer(folder: Path) -> Any:
    """The `tokenizers.Tokenizer` of *folder*, without truncation and padding.

    Raises:
        ConfigError: there is none.
    """
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / _TOKENIZER))
    except Exception as error:  # tokenizers raises bare Exception
        message = f"{folder / _TOKENIZER} cannot be read: save the fast tokenizer beside the model"
        raise ConfigError(message, path=str(folder)) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def save_model(model: Any, source: Path, out: Path) -> None:
    """Save *model* at *out* in the precision of the folder *source*, with the tokenizer and the chat files of that."""
    import torch

    config = HubFolder.open(source).config
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    model.to(getattr(torch, dtype)).save_pretrained(str(out))
    for name in _CHAT_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    for path in source.glob("LICENSE*"):
        shutil.copyfile(path, out / path.name)
