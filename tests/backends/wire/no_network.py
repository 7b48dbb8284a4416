"""Loses the network for real: `python no_network.py FOLDER` prints, as JSON, how requests went.

The process lives in a network namespace of its own, with a node and a client; see `tests.network`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from hybrid_llm.core.errors import BackendUnavailable, HybridLLMError
from tests.network import ADDRESS, NOT_ALLOWED, leave, network


def main(folder: Path) -> dict:
    from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
    from hybrid_llm.core.request import Location
    from hybrid_llm.policies import parse_policy
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.signals import FixedSensors
    from tests.backends.wire import fakes as tools
    from tests.fakes import FakeBackend

    app, edge = tools.TLSFiles.from_dir(folder, "app"), FakeBackend("edge", Location.EDGE, ["here"])
    text = "version: 1\nname: p\nresilience: {retries: 1, continue_streams: true}\nrules: [{prefer: [cloud, edge]}]\n"
    policy = parse_policy(text, backends={"cloud": Location.CLOUD, "edge": Location.EDGE})

    told: dict = {}
    engine = tools.FakeEngine("a long way to go", delay=0.05, slots=8)
    with tools.Node(tools.TLSFiles.from_dir(folder, "node"), engine, listen=f"{ADDRESS}:0") as node:
        config = GrpcConfig(target=f"{ADDRESS}:{node.port}", tls=app, server_name="localhost")
        pool = GrpcPool([config])
        with HybridLLM([pool, edge], policy, sensors=FixedSensors()) as llm:
            told["before"] = [llm.generate("hi").backend for _ in range(2)]
            told["cut"] = lose_while_it_streams(llm)
            told["back"] = seconds_until_the_cloud_answers(llm)
            time.sleep(0.2)  # no word of the kernel is this old
            network(up=False)
            try:
                tools.answer(pool.stream(tools.cleared("hi")))
            except BackendUnavailable as error:
                told["error"] = str(error)
            told["during"] = [llm.generate("hi", deadline=30.0).backend for _ in range(4)]
            state = llm.signals().backends["cloud"]
            told |= {"ready": state.ready, "reason": state.reason, "breaker": state.breaker}
            network(up=True)
        engine.delay = 3.0
        with HybridLLM([GrpcPool([config]), edge], policy, sensors=FixedSensors()) as llm:
            told["waiting"] = lose_while_it_waits(llm)
    return told


def lose_while_it_streams(llm) -> str:
    """Who ends an answer that has begun."""
    with llm.stream("hi", deadline=30.0) as stream:
        next(stream)
        network(up=False)
        for _ in stream:
            pass
    return stream.generation.continuations[-1].backend


def seconds_until_the_cloud_answers(llm) -> float:
    time.sleep(1.0)
    network(up=True)
    began = time.monotonic()
    while llm.generate("hi", deadline=30.0).backend != "cloud" and time.monotonic() - began < 60.0:
        time.sleep(0.02)
    return time.monotonic() - began


def lose_while_it_waits(llm) -> list[str]:
    """Who answers with a network, and where it is lost before the first word of a node that always takes its time."""
    answered = [llm.generate("hi", max_tokens=1, deadline=30.0).backend]
    timer = threading.Timer(0.3, network, kwargs={"up": False})
    timer.start()
    try:
        answered.append(llm.generate("hi", max_tokens=1, deadline=2.9).backend)
    except HybridLLMError as error:
        answered.append(type(error).__name__)
    timer.join()
    network(up=True)
    return answered


if __name__ == "__main__":
    if refused := leave():
        print(refused)
        sys.exit(NOT_ALLOWED)
    print(json.dumps(main(Path(sys.argv[1]))))
