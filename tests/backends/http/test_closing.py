"""Closing a client while it connects: every call ends typed, and Python has nothing to say about it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import socket, threading, time
from hybrid_llm import HybridLLM, errors
from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors

def ask(llm):
    try:
        llm.generate("x", deadline=3)
    except errors.HybridLLMError as error:
        ended.append(error)

ended = []
with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:  # which answers nobody
    url = f"http://localhost:{listener.getsockname()[1]}/v1"  # a name: several addresses are tried side by side
    for number in range(20):
        backend = OpenAISpec(name="cloud", base_url=url, model="m", insecure=True, connect_timeout_s=1.0).open()
        policy = parse_policy("version: 1\\nname: a\\n", backends={"cloud": backend.location})
        with HybridLLM([backend], policy, sensors=FixedSensors()) as llm:
            threads = [threading.Thread(target=ask, args=(llm,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(0.001 * number)
        for thread in threads:
            thread.join()
print(len(ended))
"""


def test_closing_while_it_connects_ends_every_call_and_prints_nothing():
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "160\n", done.stderr[-2000:]
    assert "never awaited" not in done.stderr
    assert "Traceback" not in done.stderr
