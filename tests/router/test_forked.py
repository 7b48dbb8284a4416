"""In a child forked from a process that has used the library, every call says so at once, and `close` does nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import hybrid_llm

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are of POSIX")
PROGRAM = """
import asyncio, inspect, json, os, sys, warnings
import hybrid_llm
from hybrid_llm.errors import UnsupportedRuntime
warnings.simplefilter("ignore")
asked = {"prompt": "Hi.", "max_tokens": 1}
hybrid_llm.generate(**asked)
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import builtin_policy
edge = EdgeBackend(EdgeConfig())
llm = hybrid_llm.HybridLLM([edge], builtin_policy("balanced", backends={edge.name: edge.location}))
open_streams = [llm.stream("Count from 3 to 20."), hybrid_llm.stream("Count from 3 to 20.")]
for stream in open_streams:
    next(stream)
loop = asyncio.new_event_loop()
left = llm.astream("Count from 3 to 20.")
loop.run_until_complete(anext(left))
ARGUMENTS = {
    "forget": ("s",), "report_refusal": (None,), "signals": (), "spending": (), "parse_policy": ("",),
    "add_hook": (print,), "close": (), "aclose": (), "from_config": (sys.argv[1],),
    **dict.fromkeys(("decide", "adecide", "preview", "apreview", "generate", "agenerate", "stream"), ("Hi.",)),
    "astream": ("Hi.",),
    **dict.fromkeys(("count_tokens", "acount_tokens"), ("Hi.",)),
    **dict.fromkeys(("run_tools", "arun_tools"), ("Hi.",)),
}

async def taken(value):
    return await (anext(value) if hasattr(value, "__anext__") else value)

def called(owner, name):
    value = getattr(owner, name)  # a property is read here
    if callable(value):
        value = value(*ARGUMENTS[name])
    if inspect.isawaitable(value) or hasattr(value, "__anext__"):
        asyncio.run(taken(value))

def outcome(call):
    try:
        call()
    except UnsupportedRuntime:
        return "UnsupportedRuntime"
    except BaseException as error:
        return repr(error)
    return "nothing"

def child():
    found = {f"HybridLLM.{name}": outcome(lambda: called(llm, name)) for name in dir(llm) if name[0] != "_"}
    for name in hybrid_llm.__all__:
        if inspect.isfunction(getattr(hybrid_llm, name)) and name != "load_policy":
            found[name] = outcome(lambda: called(hybrid_llm, name))
    for number, stream in enumerate(open_streams):
        found[f"next of {number}"] = outcome(lambda: next(stream))
        found[f"collect of {number}"] = outcome(stream.collect)
        found[f"close of {number}"] = outcome(stream.close)
    found["anext, the same loop"] = outcome(lambda: loop.run_until_complete(anext(left)))
    found["anext"] = outcome(lambda: asyncio.run(taken(left)))
    found["aclose"] = outcome(lambda: asyncio.run(left.aclose()))
    found["EdgeBackend"] = outcome(lambda: EdgeBackend(EdgeConfig()))
    print(json.dumps(found), flush=True)
    os._exit(0)

pid = os.fork()
if pid == 0:
    child()
os.waitpid(pid, 0)
os._exit(0)
"""
QUIET = {"HybridLLM.close", "HybridLLM.aclose", "close of 0", "close of 1", "aclose"}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    import json

    folder = tmp_path_factory.mktemp("forked")
    (folder / "policy.yaml").write_text("version: 1\nname: p\n")
    (folder / "hybrid.yaml").write_text(
        "version: 1\npolicy: policy.yaml\nbackends: {edge: {kind: onnx, model: embedded}}\n"
    )
    command = [sys.executable, "-c", PROGRAM, str(folder / "hybrid.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def test_every_call_in_a_forked_child_raises_unsupported_runtime_and_closing_does_nothing(found):
    assert found == {name: "nothing" if name in QUIET else "UnsupportedRuntime" for name in found}


def test_the_whole_public_surface_was_called(found):
    methods = {f"HybridLLM.{name}" for name in dir(hybrid_llm.HybridLLM) if not name.startswith("_")}
    assert found.keys() >= methods | {"generate", "stream", "decide", "agenerate", "astream", "adecide"}
