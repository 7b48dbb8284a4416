"""Makes the node's engine from a vLLM in another environment. Runs in the node: no vLLM and no torch here."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from hybrid_llm.backends.adapters import base_of, verify_signatures
from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.node.engines import check_adapters, check_folder
from hybrid_llm.backends.node.supervisor import EngineProcess, Progress, Worker
from hybrid_llm.backends.node.vllm import run
from hybrid_llm.core import errors
from hybrid_llm.core.errors import ConfigError

_PACKAGE: Final = Path(errors.__file__).resolve().parents[1] / "__init__.py"
_APART: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""vLLM reports its use to a server of its own unless told otherwise. Its processes find one another on this machine
alone, and inherit no descriptor of the pipe to the node."""
_LOG_NAME: Final = "VLLM_LOGGING_CONFIG_PATH"
_LEVEL_NAME: Final = "VLLM_LOGGING_LEVEL"
_THREADS_NAME: Final = "VLLM_CPU_OMP_THREADS_BIND"


def vllm_engine(config: EngineConfig, *, on_progress: Callable[[str], None]) -> EngineProcess:
    """The `Engine` that runs `config.model` in the vLLM of `config.python`.

    Raises:
        ConfigError: `config.python` is missing, or nothing that can be run.
    """
    python = _python(config.python)
    folder = TemporaryDirectory(prefix="hybrid-llm-vllm-")  # 0700: vLLM's own place for its sockets is open to all

    async def prepare(config: EngineConfig, progress: Progress) -> None:
        progress("checking the model folder")
        await asyncio.to_thread(_check_model, config)
        await asyncio.to_thread(_write_log_settings, Path(folder.name))

    worker = Worker(
        arguments=(str(Path(run.__file__).resolve()), str(_PACKAGE)),
        python=python,
        environment=_environment(config, Path(folder.name)),
        prepare=prepare,
    )
    return EngineProcess(config, on_progress=on_progress, worker=worker)


def _python(path: Path | None) -> Path:
    if path is None:
        raise ConfigError(
            "the engine vllm runs in an environment of its own: make one with `python3 -m venv /opt/vllm` and "
            "`/opt/vllm/bin/pip install vllm`, and add --engine-python /opt/vllm/bin/python"
        )
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigError(f"--engine-python: {path} is no program: name the Python of vLLM's environment")
    return path.absolute()  # not resolved: it is the link that makes a virtual environment of it


def _check_model(config: EngineConfig) -> None:
    if config.trust is not None:
        verify_signatures(config.model, config.trust, config.adapters.values())
    check_folder(config.model)
    check_adapters(config)
    if base_of(config.model) is not None:
        raise ConfigError(
            f"{config.model} is a LoRA adapter, which the engine vllm does not take for a model: serve its base, "
            "and the adapter by --adapter",
            path=str(config.model),
        )


def _environment(config: EngineConfig, folder: Path) -> dict[str, str]:
    private = {"VLLM_RPC_BASE_PATH": str(folder), _LOG_NAME: str(_log_settings(folder))}
    return {**private, **_set_already(_LOG_NAME), **_APART, **_threads(config.threads)}


def _set_already(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _threads(number: int) -> dict[str, str]:
    """On a CPU, vLLM binds a thread to each processor but for those that it leaves to others; or it binds none."""
    if number:
        return {_THREADS_NAME: "nobind", "OMP_NUM_THREADS": str(number)}
    return _set_already(_THREADS_NAME) or {"VLLM_CPU_NUM_OF_RESERVED_CPU": "1"}


def _log_settings(folder: Path) -> Path:
    return folder / "logging.json"


def _write_log_settings(folder: Path) -> None:
    """Warnings go to standard error, but for those that quote grammars, whose texts are an app's."""
    folder.mkdir(mode=0o700, exist_ok=True)  # what tidies up old temporary files may have removed it
    level = os.environ.get(_LEVEL_NAME) or "WARNING"
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "vllm %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "vllm": {"handlers": ["stderr"], "level": level.upper(), "propagate": False},
            "vllm.v1.structured_output": {"level": "CRITICAL"},
        },
    }
    _log_settings(folder).write_text(json.dumps(settings), encoding="utf-8")
