"""An app that has used up its descriptors gets an error of ours from every call, and answers once it has some again."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("resource", reason="limits of POSIX")
PROGRAM = """
import asyncio, os, resource, sys
import hybrid_llm
from hybrid_llm.errors import HybridLLMError
if sys.argv[2] == "used":
    hybrid_llm.decide("Hi.")
loop = asyncio.new_event_loop()
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

async def collected():
    async for _ in hybrid_llm.astream("Hi.", max_tokens=2):
        pass

CALLS = {
    "generate": lambda: hybrid_llm.generate("Hi.", max_tokens=2),
    "stream": lambda: list(hybrid_llm.stream("Hi.", max_tokens=2)),
    "decide": lambda: hybrid_llm.decide("Hi."),
    "agenerate": lambda: loop.run_until_complete(hybrid_llm.agenerate("Hi.", max_tokens=2)),
    "astream": lambda: loop.run_until_complete(collected()),
    "adecide": lambda: loop.run_until_complete(hybrid_llm.adecide("Hi.")),
}
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for _ in range(2):
    try:
        CALLS[sys.argv[1]]()
    except HybridLLMError:
        pass
    except BaseException as error:
        sys.exit(f"untyped: {error!r}")
for each in held:
    os.close(each)
CALLS[sys.argv[1]]()
print("OK", flush=True)
"""


@pytest.mark.parametrize("state", ["unused", "used"])
@pytest.mark.parametrize("call", ["generate", "stream", "decide", "agenerate", "astream", "adecide"])
def test_every_call_without_a_free_descriptor_raises_a_typed_error_and_works_again_later(call, state):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, call, state], capture_output=True, text=True, timeout=120
    )
    assert "OK" in done.stdout, done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]
