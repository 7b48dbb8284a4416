"""The node's engines by name, and the check of a model folder that needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from hybrid_llm.backends.adapters import base_of
from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.backends.node.engine import Engine, EngineConfig
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.registry import Registry

_PROCESS: Final = "hybrid_llm.backends.node.supervisor:EngineProcess"


class EngineFactory(Protocol):
    """Makes an engine, usually the engine's class. The model is loaded by `Engine.start`, not here."""

    def __call__(self, config: EngineConfig, *, on_progress: Callable[[str], None]) -> Engine:
        """*on_progress* is called with a few words at each phase of loading."""
        ...


ENGINES: Final[Registry[EngineFactory]] = Registry(
    "engine", group="hybrid_llm.engines", builtin=dict.fromkeys(("auto", "packed", "one_by_one"), _PROCESS)
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
    read_json(folder / "config.json", f"{remedy}; give a Hugging Face folder")
    from safetensors import SafetensorError, safe_open

    for path in weight_files(folder):
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            problem = f"is missing or truncated ({type(error).__name__}): copy or download it again"
            raise file_error(path, problem) from None


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object in the file.

    Raises:
        ConfigError: the file is missing or no JSON object; the message ends with *remedy*.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
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
        shards = read_json(index, "download the model again").get("weight_map", {})
        return [folder / name for name in sorted(set(shards.values()))]
    if not (folder / "model.safetensors").exists():
        raise file_error(
            folder,
            "has no weights: expected model.safetensors. Weights in another form (.bin, .pt) are not loaded, "
            "since they can run code; convert them with save_pretrained(..., safe_serialization=True)",
        )
    return [folder / "model.safetensors"]
