"""Record decisions without text, then compare another policy with them: `python examples/record_and_diff.py`."""

import subprocess
import sys
import tempfile
from pathlib import Path

from own_backend import Echo

from hybrid_llm import DecisionRecorder, HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import builtin_policy

with tempfile.TemporaryDirectory() as folder:
    trace = Path(folder, "decisions.jsonl")
    backends = [EdgeBackend(EdgeConfig()), Echo()]
    locations = {backend.name: backend.location for backend in backends}
    with HybridLLM(backends, builtin_policy("balanced", locations), hooks=[DecisionRecorder(trace)]) as llm:
        llm.generate("What is 12 + 30?", max_tokens=8)
        llm.generate("What is 12 + 30?", max_tokens=8, privacy={"phi"})
        llm.generate("word " * 600, max_tokens=8)  # too long for the device
    print(f"{len(trace.read_text().splitlines())} decisions, {'12 + 30' in trace.read_text()=}")
    command = [sys.executable, "-m", "hybrid_llm.cli.main", "policy", "diff", "balanced", "private-first"]
    done = subprocess.run([*command, "--trace", trace], check=False)
    print("exit code:", done.returncode, "(1: some requests would be routed differently)")
