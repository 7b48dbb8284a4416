"""What a model costs on this machine: size, speed and peak memory, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import bytes_of

_PROBE: Final = "hybrid_llm.prepare.compression.probe"
_SWITCHES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a model costs.

    Attributes:
        size_mb: of its folder, in units of 10^6 bytes.
        unit: `tokens_per_s` of a generator while it writes, `texts_per_s` of a classifier.
        speed: in that unit, with one thread, one request at a time; the median of five runs. A second is one of the
            processor, so that other work on this machine counts little.
        peak_memory_mb: of the whole process that ran it, with Python and its libraries.
    """

    size_mb: float
    unit: str
    speed: float
    peak_memory_mb: float

    def as_metrics(self) -> Mapping[str, float]:
        """The names and values of the record of a step."""
        return {
            "size_mb": round(self.size_mb, 3),
            self.unit: round(self.speed, 2),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
        }


def measure(folder: Path) -> Cost:
    """Run the model of *folder* in a process of its own, and report what it cost.

    Raises:
        ConfigError: it does not run.
    """
    environment = {**os.environ, **dict.fromkeys(_SWITCHES, "1")}
    done = subprocess.run(  # noqa: S603 - our own interpreter, arguments without a shell
        [sys.executable, "-m", _PROBE, str(folder)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ConfigError(f"{folder} does not run, so its speed cannot be measured: {last}", path=str(folder))
    found = json.loads(done.stdout.strip().splitlines()[-1])
    size = bytes_of(folder) / 1e6
    return Cost(size_mb=size, unit=found["unit"], speed=found["speed"], peak_memory_mb=found["peak_memory_mb"])
