"""The node's engines by name, and the check of a model folder that needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from hybrid_llm.backends.adapters import ADAPTER_NAME, adapter_weights, base_of
from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.backends.lora import read_settings
from hybrid_llm.backends.node.engine import Engine, EngineConfig
from hybrid_llm.backends.node.engines.declared import undeclared
from hybrid_llm.core import jsontext
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.registry import Registry

ADAPTER_NAMES: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}")
"""Names of adapters: they stand in lists that are separated by commas, and in the paths of gateways."""
_PROCESS: Final = "hybrid_llm.backends.node.supervisor:EngineProcess"
_VLLM: Final = "hybrid_llm.backends.node.vllm.engine:vllm_engine"
_REPLICAS: Final = "hybrid_llm.backends.node.ray.remote:ReplicatedEngine"


class EngineFactory(Protocol):
    """Makes an engine, usually the engine's class. The model is loaded by `Engine.start`, not here."""

    def __call__(self, config: EngineConfig, *, on_progress: Callable[[str], None]) -> Engine:
        """*on_progress* is called with a few words at each phase of loading."""
        ...


ENGINES: Final[Registry[EngineFactory]] = Registry(
    "engine",
    group="hybrid_llm.engines",
    builtin={**dict.fromkeys(("auto", "packed", "one_by_one"), _PROCESS), "vllm": _VLLM, "ray": _REPLICAS},
)
"""`serve --engine NAME` -> what makes it; see docs/extending.md."""


def register_engine(name: str, factory: EngineFactory) -> None:
    """Let `EngineConfig.engine` name *factory* in this process.

    Raises:
        ConfigError: the name is taken.
    """
    ENGINES.register(name, factory)


def check_folder(folder: Path) -> None:
    """Check the files of *folder* before torch is imported, which takes seconds.

    Raises:
        ConfigError: no folder, no readable config.json, no safetensors, or a truncated one.
    """
    if not folder.is_dir():
        raise ConfigError(f"no model folder at {folder}: give the folder that holds config.json", path=str(folder))
    onnx = (folder / "genai_config.json").exists()
    remedy = "a model for the device (ONNX) cannot be served" if onnx else "save the model with save_pretrained()"
    config = read_json(folder / "config.json", f"{remedy}; give a Hugging Face folder")
    shapes = {name: shape for path in weight_files(folder) for name, shape in read_shapes(path).items()}
    if base_of(folder) is None and (key := undeclared(config, shapes)):
        problem = f"has a `{key}` that its weights do not have: copy or download the model again"
        raise file_error(folder / "config.json", problem)


def check_adapters(config: EngineConfig) -> None:
    """Check the adapters' names, and the files that say what they are, before torch is imported.

    Raises:
        ConfigError: a name is no name of a model or that of the model, or a folder holds no adapter that can be served.
    """
    for name, folder in config.adapters.items():
        if not ADAPTER_NAMES.fullmatch(name) or name == config.model.resolve().name:
            problem = "that of the model" if ADAPTER_NAMES.fullmatch(name) else "not made of letters, digits and ._:@+-"
            raise ConfigError(f"the name {name[:40]!r} of an adapter is {problem}: choose another one")
        if not folder.is_dir():
            raise ConfigError(f"no adapter folder at {folder}: give one that holds {ADAPTER_NAME}", path=str(folder))
        read_settings(folder)
        adapter_weights(folder)
    if config.adapters and base_of(config.model) is not None:
        raise file_error(config.model, "is an adapter itself: name its base as --model, and this as --adapter")


def read_shapes(path: Path) -> dict[str, list[int]]:
    """The names and shapes of the weights in *path*, of which the headers alone are read.

    Raises:
        ConfigError: the file is missing or truncated.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        problem = f"is missing or truncated ({type(error).__name__}): copy or download it again"
        raise file_error(path, problem) from None


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in the file.

    Raises:
        ConfigError: the file is missing or no JSON object; the message ends with *remedy*.
    """
    try:
        content = jsontext.read_json(path)
    except FileNotFoundError:
        raise file_error(path, f"is missing: {remedy}") from None
    except (OSError, ValueError) as error:
        raise file_error(path, f"cannot be read ({type(error).__name__}): {remedy}") from None
    if not isinstance(content, dict):
        raise file_error(path, f"holds no JSON object: {remedy}")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of *folder*; of an adapter those of its base.

    Raises:
        ConfigError: there are none in the form of safetensors.
    """
    folder = base_of(folder) or folder
    index = folder / "model.safetensors.index.json"
    if index.exists():
        shards = read_json(index, "download the model again").get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise file_error(index, "names no files of its folder under `weight_map`: download the model again")
        return [folder / name for name in sorted(names)]
    if not (folder / "model.safetensors").exists():
        raise file_error(
            folder,
            "has no weights: expected model.safetensors. Weights in another form (.bin, .pt) are not loaded, "
            "since they can run code; convert them with save_pretrained(..., safe_serialization=True)",
        )
    return [folder / "model.safetensors"]
