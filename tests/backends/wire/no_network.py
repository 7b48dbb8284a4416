"""Loses the network for real: `python no_network.py FOLDER` prints, as JSON, how requests went.

The process lives in a network namespace of its own, with a node and a client; see `tests.network`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.network import ADDRESS, NOT_ALLOWED, leave, network


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main(folder: Path) -> dict:
    tools = load("wire_fakes", Path(__file__).with_name("fakes.py"))
    from hybrid_llm.backends.cloud import CloudConfig, CloudPool
    from hybrid_llm.policies import parse_policy
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.sensors import FixedSensors
    from hybrid_llm.router.types import Location
    from tests.fakes import FakeBackend

    app, edge = tools.TLSFiles.from_dir(folder, "app"), FakeBackend("edge", Location.EDGE, ["here"])
    text = "version: 1\nname: p\nresilience: {retries: 1, continue_streams: true}\nrules: [{prefer: [cloud, edge]}]\n"
    policy = parse_policy(text, backends={"cloud": Location.CLOUD, "edge": Location.EDGE})

    def ask() -> tuple[str, float]:
        began = time.monotonic()
        reply = llm.generate("hi", deadline=30.0)
        return reply.backend, round(time.monotonic() - began, 3)

    engine = tools.FakeEngine("a long way to go", delay=0.05)
    with tools.Node(tools.TLSFiles.from_dir(folder, "node"), engine, listen=f"{ADDRESS}:0") as node:
        pool = CloudPool([CloudConfig(target=f"{ADDRESS}:{node.port}", tls=app, server_name="localhost")])
        with HybridLLM([pool, edge], policy, sensors=FixedSensors()) as llm:
            before = [ask() for _ in range(2)]
            with llm.stream("hi", deadline=30.0) as stream:
                next(stream)
                network(up=False)
                began = time.monotonic()
                for _ in stream:
                    pass
            cut = (stream.generation.seams[-1].backend, round(time.monotonic() - began, 3))
            time.sleep(1.0)
            network(up=True)
            began = time.monotonic()
            while ask()[0] != "cloud" and time.monotonic() - began < 30.0:
                time.sleep(0.02)
            back = round(time.monotonic() - began, 3)
            time.sleep(0.2)  # no word of the kernel is this old
            network(up=False)
            during = [ask() for _ in range(8)]
            state = llm.signals().backends["cloud"]
            network(up=True)
    return {
        "before": before, "cut": cut, "back": back, "during": during,
        "ready": state.ready, "reason": state.reason, "breaker": state.breaker,
    }  # fmt: skip


if __name__ == "__main__":
    if refused := leave():
        print(refused)
        sys.exit(NOT_ALLOWED)
    print(json.dumps(main(Path(sys.argv[1]))))
