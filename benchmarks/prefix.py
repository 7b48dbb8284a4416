"""What reusing a known prefix of a prompt saves: the turns of a chat, and a trace over three nodes.

    python -m benchmarks prefix             also with random weights in the shape of SmolLM2-135M
    python -m benchmarks prefix --quick     the small models of this repository, two rounds

The chat has six turns under a system prompt of 1,000 tokens, 150 where the window is short. Each turn is timed with
reuse, without, and as the prefill of its new tokens alone, which is the floor. The trace is Mooncake's
(`../shared/data/traces`; left out where it is not there), a sixteenth as long: real engines on the node's demonstration
model, each with a clock of its own that runs while it computes, so that three of them can share a process.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from benchmarks._run import ROOT, parsed, parser
from benchmarks.edge_decode import prepared
from benchmarks.node_throughput import random_model
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.grpc.picker import Picker
from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard

NODE_MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
TRACE = ROOT.parent / "shared" / "data" / "traces" / "conversation_trace.jsonl.gz"
SYSTEM, SHORT, USER, ANSWER, TURNS = 1000, 150, 25, 20, 6
BLOCK, SCALE, EVERY, LONGEST = 32, 16, 64, 30_000
LOAD = 0.6
NUMBERS = count()
Turn = tuple[float, float, float]
"""Milliseconds to the first token: with reuse, without, of the new tokens alone."""


# --- a chat ---------------------------------------------------------------------------------------------------------


def answered(engine: LoopEngine, prompt: list[int], tokens: int) -> tuple[float, list[int]]:
    """Milliseconds to the first token, and the answer."""
    engine.submit(EngineRequest(request_id=f"{next(NUMBERS)}", prompt_ids=tuple(prompt), max_tokens=tokens))
    begun, first, answer = time.perf_counter(), 0.0, []
    while not engine.idle:
        for output in engine.step():
            first = first or time.perf_counter() - begun
            answer += output.token_ids
    return 1e3 * first, answer


def node_chat(folder: Path, rounds: int, system: int = SYSTEM, turns: int = TURNS) -> list[list[Turn]]:
    """Turns of one chat for each round: the same tokens for both engines, since greedy answers are the same."""
    config = {"model": folder, "engine": "packed", "threads": 1, "max_slots": 4, "kv_tokens": 4 * 2048}
    kept = load_engine(EngineConfig(**config))
    plain = load_engine(EngineConfig(**config, reuse_prefixes=False))
    return [node_turns(kept, plain, random.Random(number), system, turns) for number in range(rounds)]


def node_turns(kept: LoopEngine, plain: LoopEngine, rng: random.Random, system: int, count: int) -> list[Turn]:
    def drawn(length: int) -> list[int]:
        return [rng.randrange(8, kept.info.vocab_size) for _ in range(length)]

    prompt, turns, new = drawn(system), [], system
    for _ in range(count):
        asked = drawn(USER)
        prompt += asked
        with_reuse, answer = answered(kept, prompt, ANSWER)
        without, _ = answered(plain, prompt, ANSWER)
        floor, _ = answered(plain, prompt[-(new + USER) :], 1)
        turns.append((with_reuse, without, floor))
        prompt, new = prompt + answer, 1  # the last token of an answer was drawn and not read
    return turns


def edge_chat(folder: Path, rounds: int, system: int = SYSTEM, turns: int = TURNS) -> list[list[Turn]]:
    config = {"model": folder, "load": "eager", "threads": 1, "spin": False}  # the others' threads would spin too
    kept, plain = EdgeBackend(EdgeConfig(**config)), EdgeBackend(EdgeConfig(**config, reuse_prefixes=False))
    try:
        return [edge_turns(kept, plain, random.Random(number), system, turns) for number in range(rounds)]
    finally:
        kept.close()
        plain.close()


def edge_turns(kept: EdgeBackend, plain: EdgeBackend, rng: random.Random, system: int, count: int) -> list[Turn]:
    def text(tokens: int) -> str:
        words = ""
        while plain.count_tokens(Request(messages=(Message(role="user", content=words),))) < tokens:
            words += " ".join("".join(rng.choices("aeiounrstl", k=3)) for _ in range(max(1, tokens // 40))) + " "
        return words

    messages, turns = [Message(role="system", content=text(system))], []
    for _ in range(count):
        messages.append(Message(role="user", content=text(USER)))
        with_reuse, answer = timed_answer(kept, messages, ANSWER)
        without, _ = timed_answer(plain, messages, ANSWER)
        floor, _ = timed_answer(plain, messages[-1:] if turns else messages, 1)
        turns.append((with_reuse, without, floor))
        messages.append(Message(role="assistant", content=answer))
    return turns


def timed_answer(backend: EdgeBackend, messages: list[Message], tokens: int) -> tuple[float, str]:
    """Milliseconds to the first token, as the backend times it, and the answer."""
    request = Request(messages=tuple(messages), max_tokens=tokens, deadline=600.0)
    assessed = Assessment(request=request, allowed=frozenset({Location.EDGE}))
    chunks = list(backend.stream(PrivacyGuard().clear(assessed, Location.EDGE)))
    return chunks[-1].timings.ttft_ms, "".join(chunk.text for chunk in chunks)


def print_chat(title: str, runs: list[list[Turn]], system: int = SYSTEM) -> None:
    print(f"\n{title}: a chat under a system prompt of {system} tokens, {len(runs)} rounds, medians; TTFT in ms")
    print(f"{'turn':>6}{'with reuse':>12}{'without':>10}{'floor':>8}{'without / with':>16}{'with / floor':>14}")
    for turn in range(len(runs[0])):
        kept, plain, floor = (statistics.median(run[turn][column] for run in runs) for column in range(3))
        print(f"{turn + 1:>6}{kept:>12.1f}{plain:>10.1f}{floor:>8.1f}{plain / kept:>16.1f}{kept / floor:>14.2f}")


# --- a trace over three nodes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request of the trace, scaled down."""

    at_s: float
    blocks: tuple[bytes, ...]
    prompt: tuple[int, ...]
    answer: int


def read_trace(path: Path, vocab: int) -> list[Call]:
    """Every 64th conversation, identified by its second block: the first one is the same system prompt for most."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if len(row["hash_ids"]) > 1 and row["input_length"] < LONGEST]
    chosen = set(list(dict.fromkeys(row["hash_ids"][1] for row in rows))[::EVERY])
    return [_call(row, vocab) for row in rows if row["hash_ids"][1] in chosen]


def _call(row: dict, vocab: int) -> Call:
    tokens = [token for name in row["hash_ids"] for token in _block(name, vocab)]
    return Call(
        at_s=row["timestamp"] / 1e3,
        blocks=tuple(str(name).encode() for name in row["hash_ids"]),
        prompt=tuple(tokens[: max(2, row["input_length"] // SCALE)]),
        answer=max(1, min(row["output_length"] // SCALE, 64)),
    )


def _block(name: int, vocab: int) -> Iterator[int]:
    rng = random.Random(name)
    return (rng.randrange(8, vocab) for _ in range(BLOCK))


@dataclass(kw_only=True)
class Node:
    """An engine with a clock of its own, and the endpoint that the picker sees."""

    address: str
    engine: LoopEngine
    now: float = 0.0
    usual_ms: float = 0.0
    sent: dict[str, float] = field(default_factory=dict)
    ttft_ms: list[float] = field(default_factory=list)
    cached: int = 0

    @property
    def busy(self) -> float:
        load = self.engine.load()
        return (load.active + load.waiting) / load.slots

    @property
    def expected_ttft_ms(self) -> float:
        load = self.engine.load()
        return self.usual_ms * (1 + load.active + load.waiting)

    def run_until(self, instant: float) -> None:
        while not self.engine.idle and self.now < instant:
            begun = time.perf_counter()
            outputs = self.engine.step()
            self.now += time.perf_counter() - begun
            for output in outputs:
                self._hear(output)
        self.now = max(self.now, instant) if instant < float("inf") else self.now

    def _hear(self, output: EngineOutput) -> None:
        assert output.error is None, output.error
        sent = self.sent.pop(output.request_id, None)
        if sent is not None:
            self.ttft_ms.append(1e3 * (self.now - sent))
            self.usual_ms += 0.2 * (self.ttft_ms[-1] - self.usual_ms)
            self.cached += output.cached_tokens

    def submit(self, call: Call, at: float) -> None:
        request_id = f"{next(NUMBERS)}"
        self.sent[request_id] = at
        self.engine.submit(EngineRequest(request_id=request_id, prompt_ids=call.prompt, max_tokens=call.answer))


def replay(calls: list[Call], pace: float, *, choosing: bool, reuse: bool) -> list[Node]:
    config = EngineConfig(model=NODE_MODEL, threads=1, kv_tokens=16 * 2048, max_waiting=4096, reuse_prefixes=reuse)
    nodes = [Node(address=f"node-{number}", engine=load_engine(config)) for number in range(3)]
    picker, turns = Picker(draw=random.Random(1)), cycle(nodes)
    for call in calls:
        at = (call.at_s - calls[0].at_s) * pace
        for node in nodes:
            node.run_until(at)
        node = picker.pick(nodes, call.blocks[:64]) if choosing else next(turns)
        node.submit(call, at)
    for node in nodes:
        node.run_until(float("inf"))
    return nodes


def pace_of(calls: list[Call]) -> float:
    """Seconds of ours for one of the trace, such that three engines without reuse work for *LOAD* of the time."""
    engine = load_engine(EngineConfig(model=NODE_MODEL, threads=1, kv_tokens=16 * 2048, reuse_prefixes=False))
    sample = random.Random(2).sample(calls, 24)
    begun = time.perf_counter()
    for call in sample:
        answered(engine, list(call.prompt), call.answer)
    work = (time.perf_counter() - begun) / len(sample) * len(calls)
    return work / (3 * LOAD) / (calls[-1].at_s - calls[0].at_s)


def best_possible(calls: Iterable[Call]) -> float:
    """The share of all prompts that one node with endless memory would have read before."""
    seen: set[bytes] = set()
    known = total = 0
    for call in calls:
        blocks = next((i for i, block in enumerate(call.blocks) if block not in seen), len(call.blocks))
        known += min(blocks * BLOCK, len(call.prompt) - 1)
        total += len(call.prompt)
        seen.update(call.blocks)
    return known / total


def compare_trace(path: Path, rounds: int) -> None:
    if not path.exists():
        print(f"\nthe trace is left out: {path.name} is not in ../shared/data/traces")
        return
    calls = read_trace(path, 2048)
    pace = pace_of(calls)
    ways = {
        "the picker": {"choosing": True, "reuse": True},
        "round robin": {"choosing": False, "reuse": True},
        "round robin, no reuse": {"choosing": False, "reuse": False},
    }
    runs: dict[str, list[list[Node]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            runs[name].append(replay(calls, pace, **way))
    total = sum(len(call.prompt) for call in calls)
    print(f"\nMooncake's trace: {len(calls)} requests, {total} prompt tokens, three nodes of 16 slots, {rounds} rounds")
    print(f"one node that forgets nothing would have read {best_possible(calls):.1%} of the prompts before")
    print(f"{'':<24}{'of the prompts known':>22}{'TTFT p50 ms':>13}{'mean':>8}{'p95':>8}")
    for name, results in runs.items():
        known = statistics.median(sum(node.cached for node in nodes) / total for nodes in results)
        times = [sorted(ms for node in nodes for ms in node.ttft_ms) for nodes in results]
        assert all(len(run) == len(calls) for run in times)
        middle, mean = (statistics.median(of(run) for run in times) for of in (statistics.median, statistics.mean))
        late = statistics.median(run[int(0.95 * len(run))] for run in times)
        print(f"{name:<24}{known:>22.1%}{middle:>13.1f}{mean:>8.1f}{late:>8.1f}")


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--quick", action="store_true", help="the small models of this repository, fewer rounds")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--trace", type=Path, default=TRACE)
    made.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hybrid-llm-benchmarks")
    options = parsed(made)
    rounds = 1 if options.smoke else 2 if options.quick else options.rounds
    if options.smoke:
        print_chat("node, hybrid-demo-node", node_chat(NODE_MODEL, rounds, 20, 2), 20)
        print_chat("edge, embedded model", edge_chat(embedded_model(), rounds, 20, 2), 20)
        return
    print_chat("node, hybrid-demo-node", node_chat(NODE_MODEL, rounds))
    print_chat("edge, embedded model", edge_chat(embedded_model(), rounds, SHORT), SHORT)
    if not options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            print_chat("node, SmolLM2-135M shape, bf16", node_chat(random_model(Path(scratch)), rounds))
        _, folder = prepared("smollm2-135m", options.cache)
        print_chat("edge, SmolLM2-135M shape, int4", edge_chat(folder, rounds))
    compare_trace(options.trace, rounds)


if __name__ == "__main__":
    main()
