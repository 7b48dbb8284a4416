"""What requests take while this machine has no network, beside the device alone.

    python -m benchmarks no_network [--count N]

Two nodes and a client share a network namespace; the address of the nodes is removed and added again.
Needs Linux, and the right to make a namespace.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._resilience import NUMBERS, client, many, quantile, row
from benchmarks._run import ROOT, parsed, parser
from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.router.client import HybridLLM
from tests.chaos.exact import ExactEdge, prompt_of
from tests.network import ADDRESS, leave, network

NODES = 2


@contextmanager
def nodes(tls: Path) -> Iterator[list[GrpcConfig]]:
    """Nodes in processes of their own, and how to reach them."""
    make_authority(tls)
    issue(tls, "node", kind="node", hosts=[ADDRESS])
    issue(tls, "app")
    command = [sys.executable, "-m", "tests.chaos.node", str(tls), f"{ADDRESS}:0"]
    options = ["16", "64", "0.004", "0.004"]  # slots, queue, seconds to the first piece and to the next
    started = []
    try:
        for number in range(NODES):
            arguments = [*command, str(tls / f"journal{number}"), *options]
            started.append(
                subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True)
            )
        ports = [process.stdout.readline().split()[1] for process in started]
        app = TLSFiles.from_dir(tls, "app")
        yield [GrpcConfig(target=f"{ADDRESS}:{port}", tls=app) for port in ports]
    finally:
        for process in started:
            process.terminate()
            process.wait()


def answers(llm: HybridLLM, count: int) -> tuple[float, float, float, int]:
    """Of *count* requests from four threads: ms at p50 and p99 and at most, and how many were answered by nodes."""
    by: list[str] = []

    def ask(_: int) -> float:
        began = time.monotonic()
        by.append(llm.generate(prompt_of(next(NUMBERS), 3), deadline=30.0).backend)
        return 1e3 * (time.monotonic() - began)

    times = many(ask, count, 4)
    return quantile(times, 0.5), quantile(times, 0.99), max(times), by.count("cloud")


def lost(configs: list[GrpcConfig], count: int, seconds: float) -> None:
    """The network goes for *seconds*."""
    with client([GrpcPool(configs), ExactEdge()], "retries: 1") as llm:
        row("online", *answers(llm, count))
        time.sleep(1.0)
        network(up=False)
        row("the first 16 without a network", *answers(llm, 16))
        row("then", *answers(llm, count))
        time.sleep(seconds)
        answers(llm, 4)
        network(up=True)
        began = time.monotonic()
        while not answers(llm, 1)[3]:
            time.sleep(0.01)
        print(f"    from nodes again {time.monotonic() - began:.2f} s after {seconds:g} s without a network")


def main() -> None:
    """Print the table."""
    made = parser(__doc__)
    made.add_argument("--count", type=int, default=200)
    options = parsed(made)
    count, spans = (4, (0.2,)) if options.smoke else (options.count, (1.0, 10.0))
    if refused := leave():
        print(f"no network namespace here: {refused}")
        return
    folder = Path(tempfile.mkdtemp(prefix="hybrid-llm-bench-"))
    try:
        with nodes(folder / "tls") as configs:
            print(f"the network is gone, {count} requests in each phase: ms of an answer")
            row("", "p50", "p99", "most", "from nodes")
            with client([ExactEdge()], "retries: 0") as alone:
                row("the device alone", *answers(alone, count))
            for seconds in spans:
                lost(configs, count, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
