"""Stores what predictors have learnt for the next process: one small JSON file per model and device.

A file holds a dozen numbers, the digest of the model, the name of the processor and the version of the runtime: no
prompt, no host name, no serial number, and of a node's address only a hash.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.files import replace_text
from hybrid_llm.router.signals.predictor import FitState, LatencyPredictor, Learned

_log = logging.getLogger("hybrid_llm")
_FORMAT: Final = "hybrid-llm prediction"
_VERSION: Final = 1
_MAX_BYTES: Final = 65_536
_ENOUGH: Final = 10
"""Predictions after which what was learnt is worth storing."""
_MAX: Final = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What latency depends on: *kind* of backend, *model* (a digest, or the hash of a node) and *device*."""

    kind: str
    model: str
    device: str

    @property
    def file_name(self) -> str:
        """The name of the file for this identity."""
        key = "\n".join((self.kind, self.model, self.device))
        return hashlib.sha256(key.encode()).hexdigest()[:32] + ".json"


class PredictionStore:
    """What was learnt, by backend. An invalid file costs one warning and the warm start, and is never an error.

    A client saves into it when it closes, if the store is *writable*.
    """

    def __init__(self, folder: Path, identities: Mapping[str, Identity], *, writable: bool = False) -> None:
        self._folder = folder
        self._identities = identities
        self._writable = writable

    def load(self, backend: str) -> Learned | None:
        """What is stored for *backend*; None if there is nothing or the file is invalid."""
        if (identity := self._identities.get(backend)) is None:
            return None
        path = self._folder / identity.file_name
        try:
            with path.open("rb") as stream:
                return _parse(json.loads(stream.read(_MAX_BYTES)), identity)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("%s cannot be used (%s): predictions begin without it", path, type(error).__name__)
            return None

    def save_learned(self, backend: str, predictor: LatencyPredictor) -> None:
        """Save what *predictor* has learnt, if the store is writable and there is enough of it."""
        if self._writable and predictor.predictions >= _ENOUGH:
            self.save(backend, predictor.learned)

    def save(self, backend: str, learned: Learned) -> Path | None:
        """Write the file atomically. Returns its path; None, after a warning, where that is not possible."""
        if (identity := self._identities.get(backend)) is None:
            return None
        path = self._folder / identity.file_name
        record = {"format": _FORMAT, "version": _VERSION, **asdict(identity), **asdict(learned)}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_text(path, json.dumps(record, indent=1), mode=0o600)
        except OSError as error:
            _log.warning("%s cannot be written (%s): predictions are not stored", path, error.strerror)
            return None
        return path


def _parse(record: Any, identity: Identity) -> Learned:
    if record["format"] != _FORMAT or record["version"] != _VERSION:
        raise ValueError("another format")
    if any(record[name] != value for name, value in asdict(identity).items()):
        raise ValueError("another identity")
    return Learned(ttft=_fit(record["ttft"]), tpot=_fit(record["tpot"]))


def _fit(record: Any) -> FitState:
    w0, w1, w2, w3 = (_number(value) for value in record["weights"])
    return FitState(weights=(w0, w1, w2, w3), scale=_number(record["scale"]), count=int(_number(record["count"])))


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):  # a bool is an int
        raise TypeError("not a number")
    if not 0.0 <= value <= _MAX:
        raise ValueError("out of range")
    return float(value)


def state_folder() -> Path:
    """The folder for the state of a user's programs (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "hybrid-llm"


@cache
def device_of() -> str:
    """This device as far as latency depends on it: processor, usable cores, version of the runtime."""
    try:
        runtime = version("onnxruntime")
    except PackageNotFoundError:
        runtime = "none"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f"{_processor()}, {cores} cores, onnxruntime {runtime}"


def _processor() -> str:
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(("model name", "Hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
