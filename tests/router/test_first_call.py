"""The first call on an event loop: what it needs is imported in other threads, and only little in the loop's own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, json, sys, threading
import hybrid_llm

class Watch:
    seen = []
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            self.seen.append(name)

async def main():
    sys.meta_path.insert(0, Watch())
    {call}
    sys.meta_path.pop(0)

asyncio.run(main())
print(json.dumps(Watch.seen))
"""
CALLS = {
    "agenerate": 'await hybrid_llm.agenerate("Hi.", max_tokens=4)',
    "adecide": 'await hybrid_llm.adecide("Hi.")',
    "astream": """async with hybrid_llm.astream("Hi.", max_tokens=4) as stream:
        async for chunk in stream:
            break""",
}
LIGHT = (
    "hybrid_llm.router.default",
    "hybrid_llm.router.execution.stream",
    "hybrid_llm.core.errors",
    "hybrid_llm.core.looks",
    "hybrid_llm.core.threads",
    "hybrid_llm.core.tracebacks",
)
"""What of this library the loop's thread may import: no record class among it, whose methods Python compiles."""


@pytest.mark.parametrize("call", CALLS)
def test_an_event_loop_imports_next_to_nothing(call):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{call}", CALLS[call])], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    imported = [name for name in json.loads(done.stdout.splitlines()[-1]) if not any(n.startswith(name) for n in LIGHT)]
    assert all(name.partition(".")[0] in sys.stdlib_module_names for name in imported), imported
    assert "dataclasses" not in imported
