"""Importing the library is free, its public names are exact, and its rooms depend on each other one way only."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hybrid_llm

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "transformers",
    "onnxruntime",
    "onnx",
    "grpc",
    "tokenizers",
    "numpy",
    "yaml",
    "psutil",
    "tenacity",
    "jinja2",
    "asyncio",
    "re2",
    "ahocorasick",
)

PUBLIC = {
    "Alternative",
    "AnswerCache",
    "AnswerWarning",
    "AsyncStream",
    "AttemptRecord",
    "Backend",
    "BackendState",
    "CachedAnswer",
    "Capabilities",
    "Chunk",
    "Clearance",
    "Cleared",
    "ConfigError",
    "ContentRefused",
    "Continuation",
    "Departure",
    "Decision",
    "DecisionRecorder",
    "Detector",
    "DeviceSignals",
    "Direction",
    "DiskCache",
    "Engine",
    "Finding",
    "FinishReason",
    "FixedSensors",
    "GenerateOptions",
    "Generation",
    "Guardrail",
    "Hook",
    "HybridLLM",
    "HybridLLMError",
    "InvalidRequest",
    "Ledger",
    "Location",
    "MemoryCache",
    "Message",
    "NetworkSignals",
    "Policy",
    "PolicyError",
    "PolicySource",
    "Preview",
    "Request",
    "RequestEvent",
    "RequestMetadata",
    "Sensors",
    "Signals",
    "Stream",
    "SystemSensors",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolRun",
    "ToolStep",
    "arun_tools",
    "run_tools",
    "Usage",
    "Verdict",
    "adecide",
    "agenerate",
    "astream",
    "decide",
    "errors",
    "generate",
    "guardrails",
    "load_policy",
    "stream",
    "tasks",
}


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_loads_no_runtime_opens_no_socket_and_starts_no_thread():
    code = (
        "import sys, json, threading, os\n"
        "events = []\n"
        "sys.addaudithook(lambda name, args: events.append(name) if name.startswith('socket.') else None)\n"
        "import hybrid_llm\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "print(json.dumps([heavy, events, threading.active_count()]))"
    )
    assert json.loads(run(code)) == [[], [], 1]


def test_the_client_can_be_imported_without_any_runtime():
    heavy = json.loads(
        run(
            "import sys, json\nfrom hybrid_llm import HybridLLM\n"
            "print(json.dumps([m for m in ('torch', 'transformers', 'onnxruntime', 'grpc') if m in sys.modules]))"
        )
    )
    assert heavy == []


def test_the_public_names_are_exactly_these_and_each_can_be_loaded():
    assert set(hybrid_llm.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(hybrid_llm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = hybrid_llm.nope


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module.count(".") <= 1}
    return found


def modules() -> list[tuple[str, Path]]:
    """Every module of ours, as `router/client.py`, or `cli/main.py`: links to the rooms are followed."""
    package = ROOT / "hybrid_llm"
    return [
        (path.relative_to(package).as_posix(), path)
        for folder, _, names in os.walk(package, followlinks=True)
        for path in (Path(folder, name) for name in names)
        if path.suffix == ".py" and "_pb2" not in path.name
    ]


def test_torch_and_transformers_are_imported_only_by_node_models_and_preparation():
    for name, path in modules():
        heavy = {other.split(".")[0] for other in imports_of(path)} & {"torch", "transformers", "onnxruntime_genai"}
        assert not heavy or name.startswith(("backends/node/", "backends/models/", "prepare/")), name


def test_clearances_are_made_by_the_guard_alone():
    makers = {name for name, path in modules() if "_make_cleared" in path.read_text(encoding="utf-8")}
    assert makers == {"core/clearance.py", "router/privacy/guard.py"}


def test_errors_are_a_module_and_an_attribute():
    import hybrid_llm.errors
    from hybrid_llm.errors import HybridLLMError

    assert hybrid_llm.errors.HybridLLMError is HybridLLMError is hybrid_llm.HybridLLMError
