"""Imports onnxruntime, always with its telemetry off, and opens sessions. The only module that imports it."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_llm.core.errors import BackendUnavailable, ConfigError, UnsupportedRuntime
from hybrid_llm.core.lifetime import is_forked, native

if TYPE_CHECKING:
    import onnxruntime


_TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"


def load_runtime() -> Any:
    """Import onnxruntime with its telemetry switched off, and return the module.

    From 1.29 on, importing onnxruntime writes a device id under the home directory and contacts a collector, unless
    `ORT_DISABLE_TELEMETRY=1` is set before. If the app has imported it without the variable, a warning says so, and
    telemetry is switched off from then on.

    Raises:
        ConfigError: onnxruntime cannot be imported.
        UnsupportedRuntime: it may have started the thread of its telemetry before this process was forked.
    """
    if "onnxruntime" in sys.modules:
        return _already_imported(sys.modules["onnxruntime"])
    os.environ[_TELEMETRY_SWITCH] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"onnxruntime cannot be imported ({error}): pip install --upgrade onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _already_imported(module: Any) -> Any:
    if os.environ.get(_TELEMETRY_SWITCH) != "1":
        if is_forked():  # its thread exists in the parent only, and whoever waits for it ends or hangs
            raise UnsupportedRuntime(
                f"onnxruntime was imported without {_TELEMETRY_SWITCH}=1 and does not survive a fork: set the variable "
                "in the parent, or import onnxruntime in the child"
            )
        warnings.warn(
            "onnxruntime was imported before hybrid_llm and without ORT_DISABLE_TELEMETRY=1: it may have written a "
            "device id under the home directory and contacted its collector. Set the variable, or create the "
            "HybridLLM before importing onnxruntime.",
            RuntimeWarning,
            stacklevel=2,
        )
        os.environ[_TELEMETRY_SWITCH] = "1"
        module.disable_telemetry_events()
    return module


def open_session(
    model: Path | bytes, *, threads: int, spin: bool, approximate: bool = False
) -> onnxruntime.InferenceSession:
    """Open an ONNX model, a file or what it holds, on the CPU.

    Args:
        model: The file, or its content.
        threads: Threads to compute with; 0 for one per processor.
        spin: Whether they spin between steps, or sleep.
        approximate: Whether GELU may be computed by its usual approximation, which is faster.

    Raises:
        ConfigError: onnxruntime rejects the model.
        BackendUnavailable: Python exits.
    """
    ort = load_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or ceil(usable_processors())
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings go to standard error, past the app's logging
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    if approximate:
        options.add_session_config_entry("optimization.enable_gelu_approximation", "1")
    given = model if isinstance(model, bytes) else str(model)
    cancel = partial(options.set_load_cancellation_flag, True)
    try:
        with native.cancelled_by(cancel):
            return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except BackendUnavailable:  # Python exits
        raise
    except Exception as error:  # onnxruntime has one unrelated exception class per status
        path = "the model" if isinstance(model, bytes) else str(model)
        raise ConfigError(
            f"onnxruntime {ort.__version__} cannot load {path} ({type(error).__name__}): "
            "upgrade onnxruntime, or convert the model again",
            path=path,
        ) from error


def usable_processors() -> float:
    """Processors that this process may use, by its affinity and its cgroup's quota (v2), which may be a fraction."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split())
        return min(count, quota / period)
    except (OSError, ValueError):
        return count  # no cgroup, or `max`
