"""Tool calls of real weights at temperature 1, on the device and on a node, and calls that break off and go on.

    python -m benchmarks tools [--full] [--only calls|cuts] [--json FILE]

Every call is judged by jsonschema, against the schema of its tool. `--full` makes a thousand calls on each side, and
cuts five hundred answers in each direction, inside arguments and inside reasoning, between models of other templates.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from benchmarks._resilience import client, many, row
from benchmarks._run import parsed, parser, with_json, write
from benchmarks._tool_cuts import ask_cut, variants
from benchmarks._tool_schemas import QUESTIONS, SCHEMAS, tool
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.cli.demo.node import NodeProcess
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import FinishReason, Generation
from hybrid_llm.core.protocols import Backend
from hybrid_llm.router.client import HybridLLM
from tests.smollm2 import edge_folder, node_folder
from tests.weights import Unreachable

CHOICES = ("required", "named", "auto", "required", "named", "required")
SETS = 24
"""Different prompts, each with a few tools."""
MOST_TOKENS = 64
DEADLINE = 600.0
NODE = ("--threads", "1", "--stall-limit", "300")
"""One thread, and patience: the machine may be busy."""
CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER


class Device(EdgeBackend):
    """One model for all clients: closing a client leaves it open."""

    def close(self) -> None:
        """It stays."""

    async def aclose(self) -> None:
        """It stays."""


@contextlib.contextmanager
def device(model: Path) -> Iterator[Backend]:
    """The device with *model*."""
    backend = Device(EdgeConfig(model=model, max_concurrency=2, threads=1))
    try:
        yield backend
    finally:
        EdgeBackend.close(backend)


@contextlib.contextmanager
def served(model: Path) -> Iterator[Backend]:
    """A node over *model*, and a client of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_authority(folder / "tls")
        issue(folder / "tls", "node", kind="node", hosts=["127.0.0.1"])
        issue(folder / "tls", "app", kind="client")
        process = NodeProcess(model, folder / "tls", folder / "node", options=NODE)
        process.launch()
        try:
            files = TLSFiles.from_dir(folder / "tls", "app")
            yield GrpcBackend(GrpcConfig(target=f"127.0.0.1:{process.wait()}", tls=files))
        finally:
            process.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question with its tools."""

    question: str
    names: tuple[str, ...]
    choice: str
    options: dict[str, Any]

    @classmethod
    def of(cls, number: int, count: int) -> Case:
        """The *number*th of *count*: those with the same prompt stand together, since it is then read once."""
        prompt = random.Random(number * SETS // count % SETS)
        names = prompt.sample(sorted(SCHEMAS), prompt.choice((1, 2, 3)))
        question = prompt.choice(QUESTIONS)
        kind = CHOICES[number % len(CHOICES)]
        choice = random.Random(number).choice(names) if kind == "named" else kind
        options = {
            "tools": [tool(name) for name in names],
            "tool_choice": choice,
            "parallel_tool_calls": number % 4 == 0,
            "temperature": 1.0,
            "seed": number,
            "max_tokens": MOST_TOKENS,
            "deadline": DEADLINE,
        }
        return cls(question=question, names=tuple(names), choice=choice, options=options)


class Judge:
    """Counts what answers are; *faults* is what must be empty."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._lock = threading.Lock()

    @property
    def errors(self) -> int:
        """How many there were in place of an answer."""
        return sum(number for name, number in self.counts.items() if name[0].isupper())

    def add_cut(self, reply: Generation) -> None:
        """Count the *reply* to a request that demands one call, and that broke off."""
        found = [self._fault(call.name, call.arguments) for call in reply.tool_calls]
        with self._lock:
            self.counts[f"ended by {reply.finish_reason}"] += 1
            self.counts["continued"] += bool(reply.continuations)
            self.counts["calls"] += len(found)
            self.counts["valid"] += found.count("")
            self.faults += filter(None, found)
            if reply.finish_reason is FinishReason.TOOL_CALLS and len(found) != 1:
                self.faults.append(f"{len(found)} calls where one is demanded")
            if reply.finish_reason is FinishReason.STOP or "{" in reply.text:
                self.faults.append("text where a call is demanded")

    def add(self, reply: Generation, case: Case) -> None:
        """Count the *reply* to *case*."""
        found = [self._fault(call.name, call.arguments) for call in reply.tool_calls]
        called = case.choice != "auto"
        reason = reply.finish_reason
        with self._lock:
            self.counts[f"ended by {reason}"] += 1
            self.counts["calls"] += len(found)
            self.counts["valid"] += found.count("")
            self.faults += filter(None, found)
            if reason is FinishReason.TOOL_CALLS and not found:
                self.faults.append("tool_calls without a call")
            if reason is FinishReason.STOP and (found or called):
                self.faults.append("stop where there is a call, or must be")
            if '{"name": "' in reply.text:
                self.faults.append("a call in the text")
            if {call.name for call in reply.tool_calls} - ({case.choice} & {*case.names} or {*case.names}):
                self.faults.append("a tool that was not offered")
            if len(found) > 1 and not case.options["parallel_tool_calls"]:
                self.faults.append("several calls where one is allowed")

    def failed(self, error: Exception) -> None:
        """Count an error in place of an answer."""
        with self._lock:
            self.counts[type(error).__name__] += 1
            if not isinstance(error, HybridLLMError):
                self.faults.append(repr(error))

    def _fault(self, name: str, arguments: str) -> str:
        try:
            jsonschema.validate(
                json.loads(arguments), SCHEMAS[name][1], cls=jsonschema.Draft202012Validator, format_checker=CHECKER
            )
        except (ValueError, KeyError, jsonschema.ValidationError) as error:
            return f"{name}: {type(error).__name__} in {arguments}"
        return ""


def calls(llm: HybridLLM, judge: Judge, count: int, workers: int) -> None:
    """Ask until there are *count* calls."""
    numbers = itertools.count()

    def ask(_: int) -> float:
        while judge.counts["calls"] < count and judge.errors < count:
            case = Case.of(next(numbers), count)
            try:
                reply = llm.generate(case.question, **case.options)
            except Exception as error:  # noqa: BLE001  # counted, and a fault where it is none of ours
                judge.failed(error)
                time.sleep(1.0)
            else:
                judge.add(reply, case)
        return 0.0

    many(ask, workers, workers)


def compare_calls(edge: Path, node: Path, count: int, sides: list[str]) -> dict[str, object]:
    """The calls of both *sides*, or of one."""
    print(f"tool calls at temperature 1, at least {count} a side")
    row("", "answers", "calls", "valid", "cut", "errors", "s")
    figures: dict[str, object] = {}
    for name in sides:
        with device(edge) if name == "edge" else served(node) as backend:
            figures[name] = calls_of(name, backend, count)
    return figures


def calls_of(name: str, backend: Backend, count: int) -> dict[str, object]:
    """The calls of one side; its *backend* is closed, if it can be."""
    with client([backend], "retries: 0") as llm:
        judge, began = Judge(), time.monotonic()
        calls(llm, judge, count, workers=min(count, 2 if name == "edge" else 8))
    print_row(name, judge, time.monotonic() - began)
    return {**judge.counts, "seconds": time.monotonic() - began}


def compare_cuts(count: int) -> dict[str, object]:
    """Cuts in both directions, from each template to others."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        edges, nodes = variants(Path(name))
        devices = {name: stack.enter_context(device(path)) for name, path in edges.items()}
        clouds = {name: stack.enter_context(served(nodes[name])) for name in ("plain", "thinks")}
        return cuts_between(devices, clouds, count)


def cuts_between(devices: dict[str, Backend], clouds: dict[str, Backend], count: int) -> dict[str, object]:
    """*count* cuts in each direction, of all pairs in turn."""
    print(f"answers that break off in arguments or reasoning, {count} in each direction")
    row("", "answers", "calls", "valid", "cut", "errors", "s")
    figures: dict[str, object] = {}
    for title, firsts, seconds in (("edge to node", devices, clouds), ("node to edge", clouds, devices)):
        judge, began = Judge(), time.monotonic()
        pairs = itertools.cycle(itertools.product(firsts, seconds))
        for number, (first, second) in zip(range(count), pairs, strict=False):
            try:
                judge.add_cut(ask_cut(firsts[first], seconds[second], number))
            except Exception as error:  # noqa: BLE001  # counted, and a fault where it is none of ours
                judge.failed(error)
        figures[title] = {**judge.counts, "seconds": time.monotonic() - began}
        print_row(title, judge, time.monotonic() - began)
    return figures


def smallest() -> None:
    """Both parts, on one device and one node with small models: shows that they run."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        edges, nodes = variants(Path(name))
        edge = stack.enter_context(device(edges["hermes"]))
        node = stack.enter_context(served(nodes["plain"]))
        cuts_between({"hermes": edge}, {"plain": node}, 1)
        row("tool calls", "answers", "calls", "valid", "cut", "errors", "s")
        for side, backend in (("edge", edge), ("node", node)):
            calls_of(side, backend, 1)


def print_row(name: str, judge: Judge, seconds: float) -> None:
    counts = judge.counts
    answers = sum(counts[f"ended by {reason}"] for reason in FinishReason)
    cut = answers - counts["ended by stop"] - counts["ended by tool_calls"]
    row(name, answers, counts["calls"], counts["valid"], cut, judge.errors, seconds)
    print(f"    {dict(counts)}")
    for fault in judge.faults[:10]:
        print(f"    FAULT {fault}")
    if judge.faults:
        raise SystemExit(f"{len(judge.faults)} faults")


def main() -> None:
    made = with_json(parser(__doc__))
    made.add_argument("--full", action="store_true", help="a thousand calls on each side")
    made.add_argument("--side", choices=("edge", "node"), action="append", help="only that side")
    made.add_argument("--only", choices=("calls", "cuts"), help="only that part")
    options = parsed(made)
    if options.smoke:
        return smallest()
    count = 1000 if options.full else 100
    figures: dict[str, object] = {}
    if options.only != "cuts":
        figures["calls"] = real_calls(count, options.side or ["edge", "node"])
    if options.only != "calls":
        figures["cuts"] = compare_cuts(count // 2)
    return write(options.json, figures)


def real_calls(count: int, sides: list[str]) -> dict[str, object]:
    """The calls of real weights, where they can be had."""
    try:
        return compare_calls(edge_folder(), node_folder(), count, sides)
    except Unreachable as error:
        print(f"real weights are left out: {error}")
        return {}


if __name__ == "__main__":
    main()
