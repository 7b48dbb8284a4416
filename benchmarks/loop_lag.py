"""How late an event loop is: the longest and the 99th percentile of the gaps of a 1 ms timer, by what is awaited.

    python -m benchmarks loop_lag [--busy] [--json FILE]

Each row runs in a fresh process, so that first calls are first. `--busy` has another process use every core meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks._run import ROOT, parsed, parser, with_json, write

POLICY = """\
version: 1
name: lag
tags:
  pii:    {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, phone, payment_card, iban]}
  secret: {allow: [edge], detect: [credential]}
rules: [{prefer: [edge]}]
"""
CONFIG = "version: 1\npolicy: policy.yaml\nbackends: {edge: {kind: onnx, model: embedded}}\n"
ROUNDS = 3
SCHEMA = {"type": "object", "properties": {f"field_{number}": {"type": "string"} for number in range(300)}}


def log_of(size: int) -> str:
    """*size* characters of JSON log, with an address, a number and a mail address in every line."""
    lines = (
        json.dumps(
            {"ts": 1700000000 + n, "level": "INFO", "ip": f"10.0.{n % 250}.{n % 240}", "mail": f"u{n}@example.org"}
        )
        for n in range(size // 60)
    )
    return "\n".join(lines)[:size]


async def _lag(work: Awaitable[object]) -> tuple[float, float, float]:
    """The 99th percentile and the longest of the gaps while *work* runs, and how long it took; ms."""
    gaps: list[float] = []
    over = asyncio.Event()

    async def beat() -> None:
        last = time.perf_counter()
        while not over.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append((now - last - 0.001) * 1e3)
            last = now

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    began = time.perf_counter()
    await asyncio.gather(work, return_exceptions=True)
    took = (time.perf_counter() - began) * 1e3
    over.set()
    await beating
    gaps.sort()
    return gaps[int(0.99 * (len(gaps) - 1))], gaps[-1], took


async def _module() -> object:
    import hybrid_llm

    return await hybrid_llm.agenerate("Hi.", max_tokens=8)


async def _entering(folder: Path) -> None:
    from hybrid_llm import HybridLLM

    async with HybridLLM.from_config(folder / "hybrid.yaml"):
        pass


async def _row(name: str, folder: Path) -> tuple[float, float, float]:
    if name == "hybrid_llm.agenerate, first":
        return await _lag(_module())
    from hybrid_llm import HybridLLM

    if name == "async with from_config":
        return await _lag(_entering(folder))
    async with HybridLLM.from_config(folder / "hybrid.yaml") as llm:
        if name != "agenerate, first":
            await llm.agenerate("Hi.", max_tokens=8)
        works: dict[str, Callable[[], Awaitable[object]]] = {
            "agenerate, first": lambda: llm.agenerate("Hi.", max_tokens=8),
            "agenerate, short": lambda: llm.agenerate("Count from 3 to 40.", max_tokens=64),
            "agenerate, 64 KB of JSON log": lambda: llm.agenerate(log_of(65_000), max_tokens=8),
            "agenerate, 1 MB of JSON log": lambda: llm.agenerate(log_of(1_000_000), max_tokens=8),
            "agenerate, schema of 300 fields": lambda: llm.agenerate("Hi.", max_tokens=8, output_schema=SCHEMA),
            "adecide, 1 MB of JSON log": lambda: llm.adecide(log_of(1_000_000)),
            "aclose": llm.aclose,
        }
        return await _lag(works[name]())


ROWS = (
    "hybrid_llm.agenerate, first",
    "async with from_config",
    "agenerate, first",
    "agenerate, short",
    "agenerate, 64 KB of JSON log",
    "agenerate, 1 MB of JSON log",
    "agenerate, schema of 300 fields",
    "adecide, 1 MB of JSON log",
    "aclose",
)


def once(name: str, folder: Path) -> tuple[float, float, float]:
    """One row, in a fresh process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.loop_lag", "--row", name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    p99, most, took = json.loads(done.stdout.splitlines()[-1])
    return p99, most, took


def main() -> None:
    if sys.argv[1:2] == ["--row"]:
        print(json.dumps(asyncio.run(_row(sys.argv[2], Path(sys.argv[3])))))
        return
    made = with_json(parser(__doc__))
    made.add_argument("--busy", action="store_true", help="beside a process that uses every core")
    options = parsed(made)
    cores = (os.cpu_count() or 1) if options.busy else 0
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    figures: dict[str, list[float]] = {}
    print(f"{'the gaps of a 1 ms timer, ms':34} {'p99':>8} {'longest':>8} {'the call took':>14}   (budget 5, 20)")
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "policy.yaml").write_text(POLICY)
            (folder / "hybrid.yaml").write_text(CONFIG)
            for row in ROWS[:3] if options.smoke else ROWS:
                best = min((once(row, folder) for _ in range(1 if options.smoke else ROUNDS)), key=lambda lag: lag[1])
                figures[row] = list(best)
                print(f"{row:34} {best[0]:8.1f} {best[1]:8.1f} {best[2]:14.1f}", flush=True)
    finally:
        for process in load:
            process.kill()
            process.wait()
    write(options.json, figures)


if __name__ == "__main__":
    main()
