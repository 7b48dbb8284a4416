"""Hugging Face folders for work: opened offline, with the memory checked before the weights are read.

A folder holds a whole model, or a LoRA adapter, which is merged into its base while it is loaded.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.adapters import ADAPTER_NAME, base_of, merge_adapter
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.jsontext import read_json

_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""What keeps the libraries of Hugging Face off the network; they read it when they are imported."""


class ModelKind(StrEnum):
    """What a model is used as."""

    CAUSAL = "causal language model"
    CLASSIFIER = "classifier of texts"
    TAGGER = "classifier of tokens"


_CLASSES: Final = {
    ModelKind.CAUSAL: "AutoModelForCausalLM",
    ModelKind.CLASSIFIER: "AutoModelForSequenceClassification",
    ModelKind.TAGGER: "AutoModelForTokenClassification",
}
_ENDS: Final = {
    "ForCausalLM": ModelKind.CAUSAL,
    "LMHeadModel": ModelKind.CAUSAL,
    "ForSequenceClassification": ModelKind.CLASSIFIER,
    "ForTokenClassification": ModelKind.TAGGER,
}
"""The end of an architecture's name -> what the model is."""
_HEADS: Final = re.compile(r"(^|\.)(classifier|score|pooler|pre_classifier|head|qa_outputs)\.")
"""Weights that a body without a head lacks; they are drawn."""


class NotEnoughMemory(ConfigError):
    """The model does not fit into the memory. *needed* and *free* are bytes."""

    def __init__(self, message: str, *, needed: int, free: int, path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.needed = needed
        self.free = free


def work_offline(*packages: str) -> None:
    """Keep the libraries of Hugging Face off the network in this process and its children; call it before they load.

    Raises:
        ConfigError: torch, transformers or one of *packages* is not installed.
    """
    os.environ.update(_OFFLINE)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # what peft still calls
    for package in ("torch", "transformers", *packages):
        if find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: {install_hint('prepare')}")


@dataclass(frozen=True, slots=True)
class HubFolder:
    """A folder as `save_pretrained` writes it; its weights are not read yet.

    Attributes:
        path: of the folder.
        config: what its `config.json`, or that of the base of an adapter, holds.
        base: the folder of the model that the adapter in *path* belongs to; None if *path* is a whole model.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)
    base: Path | None = None

    @classmethod
    def open(cls, path: Path, base: Path | None = None) -> HubFolder:
        """Read the configuration of *path*. *base* takes the place of the base that an adapter names.

        Raises:
            ConfigError: it is no such folder, or the base of the adapter is not there.
        """
        if path.suffix == ".gguf":
            raise ConfigError(f"{path} is a GGUF file: this needs a Hugging Face folder", path=str(path))
        if not (path / ADAPTER_NAME).is_file():
            return cls(path, _read_config(path))
        named = base or base_of(path)
        assert named is not None
        own = path if (path / "config.json").is_file() else named
        return cls(path, _read_config(own), named)

    @property
    def weights(self) -> Path:
        """The folder with the weights of the whole model."""
        return self.base or self.path

    @property
    def kind(self) -> ModelKind | None:
        """What the model is, by the name of its architecture; None for a body without a head."""
        names = self.config.get("architectures") or [""]
        return next((kind for end, kind in _ENDS.items() if str(names[0]).endswith(end)), None)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a classifier, in the order of their numbers."""
        found = self.config.get("id2label") or {}
        return tuple(str(found[number]) for number in sorted(found, key=int))

    @property
    def window(self) -> int:
        """Tokens of the longest text that the model is made for.

        Raises:
            ConfigError: transformers does not know the configuration.
        """
        from hybrid_llm.backends.node.engines.capacity import context_window

        return context_window(_load("AutoConfig", self.weights))

    def parameters(self) -> int:
        """Number of weights, from the headers of their files.

        Raises:
            ConfigError: a file is missing or truncated, or the weights are in another form than safetensors.
        """
        from safetensors import safe_open

        from hybrid_llm.backends.node.engines import check_folder, weight_files

        check_folder(self.weights)
        count = 0
        for path in weight_files(self.weights):
            with safe_open(path, framework="np") as file:
                count += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        return count

    def require_memory(self, bytes_each: float, what: str) -> None:
        """Check that *bytes_each* bytes for each weight are free; *what* names the work in the message.

        Raises:
            NotEnoughMemory: they are not. ConfigError: as `parameters`.
        """
        require_free(self.parameters(), bytes_each, what, self.path)

    def tokenizer(self) -> Any:
        """The tokenizer of transformers; one without a padding token pads with its end of text.

        Raises:
            ConfigError: there is none, or it is broken.
        """
        own = any((self.path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
        tokenizer = _load("AutoTokenizer", self.path if own else self.weights)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def model(self, kind: ModelKind, *, dtype: str = "float32", labels: Sequence[str] = (), **options: Any) -> Any:
        """The model with its weights, for inference until `train()` is called on it.

        Args:
            kind: what it is used as.
            dtype: of the weights, by torch's name.
            labels: of a classifier whose head is new where the folder has none of as many labels.
            options: further arguments of `from_pretrained`, such as `attn_implementation`.

        Raises:
            NotEnoughMemory: its weights take more memory than is free.
            ConfigError: the folder holds no such model, or is broken.
        """
        self.require_memory(2 if dtype in ("bfloat16", "float16") else 4, "loading")
        labels = labels or (self.labels if self.base and kind is not ModelKind.CAUSAL else ())
        if labels:
            names = dict(enumerate(labels))
            options |= {"num_labels": len(names), "id2label": names, "label2id": {n: i for i, n in names.items()}}
            options["ignore_mismatched_sizes"] = True
        model, found = _load(
            _CLASSES[kind], self.weights, dtype=dtype, output_loading_info=True, use_safetensors=True, **options
        )
        self._check_weights(found, kind, new_head=bool(labels))
        return (merge_adapter(model, self.path) if self.base else model).eval()

    def _check_weights(self, found: dict[str, Any], kind: ModelKind, *, new_head: bool) -> None:
        missing = sorted(found["missing_keys"])
        if lacking := [name for name in missing if not (new_head and _HEADS.search(name))]:
            lacks = f"{self.path} lacks {len(lacking)} weights of a {kind}, such as {lacking[0]}"
            raise ConfigError(f"{lacks}: it holds another kind of model, or is incomplete", path=str(self.path))


def require_free(parameters: int, bytes_each: float, what: str, path: Path) -> None:
    """Check that *bytes_each* bytes for each of *parameters* weights are free for *what* is done with *path*.

    Raises:
        NotEnoughMemory: they are not.
    """
    import torch

    from hybrid_llm.backends.node.engines.capacity import free_memory

    needed, free = int(parameters * bytes_each), free_memory(torch.device("cpu"))
    if needed > free:
        takes = f"{what} {path} takes {needed / 1e9:.2f} GB of memory ({parameters / 1e6:,.1f} M weights)"
        message = f"{takes}, and {free / 1e9:.2f} GB are free: use a smaller model, or free memory"
        raise NotEnoughMemory(message, needed=needed, free=free, path=str(path))


def _load(cls: str, path: Path, **options: Any) -> Any:
    work_offline()
    loader = getattr(import_module("transformers"), cls)
    return refused(
        path, lambda: loader.from_pretrained(str(path), local_files_only=True, trust_remote_code=False, **options)
    )


def refused(path: Path, call: Callable[[], Any]) -> Any:
    """What *call* returns, which loads *path* by transformers.

    Raises:
        ConfigError: it raised.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is missing is checked by `HubFolder.model`
    try:
        return call()
    except Exception as error:  # each architecture of transformers raises errors of its own
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        message = f"transformers cannot load {path} ({type(error).__name__}: {reason})"
        raise ConfigError(f"{message}: give a folder of a model that it knows", path=str(path)) from error


def _read_config(path: Path) -> dict[str, Any]:
    if (path / "genai_config.json").is_file() and not (path / "config.json").is_file():
        message = f"{path} is a model of the device (ONNX), whose weights cannot be trained: give a Hugging Face folder"
        raise ConfigError(message, path=str(path))
    config = _read_json(path / "config.json")
    names, labels = config.get("architectures") or [], config.get("id2label") or {}
    if not isinstance(names, list) or not isinstance(labels, dict) or not all(map(str.isdecimal, labels)):
        message = f"{path / 'config.json'} has `architectures` or `id2label` in another form: download the model again"
        raise ConfigError(message, path=str(path))
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except FileNotFoundError:
        message = f"{path.parent} is no model folder, it has no {path.name}: give a Hugging Face folder"
        raise ConfigError(message, path=str(path)) from None
    except (OSError, ValueError) as error:
        message = f"{path} cannot be read ({type(error).__name__}): copy or download the model again"
        raise ConfigError(message, path=str(path)) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no JSON object: copy or download the model again", path=str(path))
    return values
