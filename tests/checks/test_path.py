"""How many files a request crosses: from `generate` to the first step of the model on the device."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import hybrid_llm
from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.signals import FixedSensors

ROOT = Path(hybrid_llm.__file__).resolve().parents[1]
MOST_FILES = 42
ROOMS = tuple(str(ROOT / room) for room in ("hybrid_llm", "router", "policies", "backends"))


def crossed(work: Callable[[], object]) -> list[str]:
    """Our files whose functions *work* calls, in the order of their first call, up to the first step of the model."""
    files: dict[str, None] = {}
    arrived = False

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal arrived
        path = str(Path(frame.f_code.co_filename).resolve()) if event == "call" and not arrived else ""
        if path.startswith(ROOMS):
            files[str(Path(path).relative_to(ROOT))] = None
            arrived = frame.f_code.co_qualname == "EdgeSequence.append"

    threading.setprofile(note)  # the device's model runs in a thread of its own
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    assert arrived, "the model was not reached"
    return list(files)


def test_a_request_crosses_few_files_up_to_the_first_step_of_the_model():
    with HybridLLM([EdgeBackend(EdgeConfig())], builtin_policy("balanced"), sensors=FixedSensors()) as llm:
        llm.generate("warm up: load the model and import what is imported on first use", max_tokens=1)
        files = crossed(lambda: llm.generate("Is this review positive? 'A warm, funny film.'", max_tokens=2))
    assert len(files) <= MOST_FILES, files
    assert not [file for file in files if "tracing" in file or "otel" in file or "telemetry" in file]  # nothing traces
