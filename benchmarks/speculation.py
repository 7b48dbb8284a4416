"""Speculative decoding by prompt lookup: answers with it and without, their speed, and that they are the same.

    python -m benchmarks speculation                5 kinds of task, 6 prompts each
    python -m benchmarks speculation --prompts 60   more of them: shows that answers are equal, takes long

SmolLM2-135M-Instruct, its GGUF moved exactly, greedy, on one thread. Each prompt is answered twice, one right behind
the other, in turns with it first and without it first, so that a busy machine slows both alike; rates count from the
first token on. *CPU* is the ratio of processor time, which other processes disturb less. The texts are this
repository's documentation, the code is of Python's library, orders and people are made up. Exits with 1 if any two
answers differ.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import random
import shelve
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from benchmarks._run import ROOT, announce, parser
from benchmarks.edge_decode import real_weights
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.generation import Usage
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.weights import Unreachable

MODULES = (argparse, inspect, random, shelve, statistics, textwrap)
"""Of which functions are edited."""
QUESTIONS = (
    "Why is the sky blue?",
    "How do I keep basil alive in winter?",
    "What should I see in Lisbon in two days?",
    "Explain the difference between a virus and a bacterium.",
    "Tell me a short story about a lighthouse.",
    "How does a bicycle stay upright?",
    "What makes bread rise?",
    "Give me advice for a first job interview.",
    "Why do cats purr?",
    "How was paper made in the past?",
)
TOWNS = ("Hertford", "Lisbon", "Graz", "Uppsala", "Leiden", "Toledo")
NAMES = ("Ana Moreira", "Jonas Huber", "Linnea Berg", "Pieter de Vries", "Carmen Ruiz", "Tom Atwood")


def record(*names: str) -> dict[str, object]:
    """The schema of an object of texts."""
    properties = {name: {"type": "string"} for name in names}
    return {"type": "object", "properties": properties, "required": [*names], "additionalProperties": False}


ORDER = json.dumps(record("number", "date", "customer", "address", "total"))
PEOPLE = json.dumps({"type": "array", "items": record("name", "email", "role", "city"), "minItems": 4, "maxItems": 4})


@dataclass(frozen=True)
class Task:
    """A prompt, and the schema of its answer if it has one."""

    text: str
    schema: str | None = None


@dataclass(frozen=True)
class Sample:
    """One answer, with the seconds from its first token to its last, by the clock and of the thread's processor."""

    text: str
    usage: Usage
    seconds: float
    cpu: float


def summaries(rng: random.Random) -> Iterator[Task]:
    pages = [path.read_text(encoding="utf-8").split("\n\n") for path in sorted((ROOT / "docs").glob("*.md"))]
    paragraphs = [text for page in pages for text in page if len(text) > 300 and text[0].isalpha()]
    while True:
        chosen = "\n\n".join(rng.sample(paragraphs, 2))[:1600]
        yield Task(f"Summarise this text in a few sentences.\n\n{chosen}")


def orders(rng: random.Random) -> Iterator[Task]:
    while True:
        text = (
            f"Order {rng.randrange(2019, 2026)}-{rng.randrange(1000, 9999)} of {rng.randrange(1, 28)} March "
            f"{rng.randrange(2019, 2026)} is for {rng.choice(NAMES)}, {rng.randrange(1, 200)} Mill Lane, "
            f"{rng.choice(TOWNS)}. It has {rng.randrange(2, 9)} boxes of {rng.choice(('tea', 'tiles', 'lamps'))} "
            f"which leave on a Monday, and comes to {rng.randrange(90, 9000)}.50 EUR. Please call before delivery."
        )
        yield Task(f"Extract number, date, customer, address and total from this order as JSON.\n\n{text}", ORDER)


def people(rng: random.Random) -> Iterator[Task]:
    roles = ("head of sales", "software engineer", "accountant", "site manager", "legal counsel")
    while True:
        team = [
            f"{name} ({name.split()[-1].lower()}@example.com) is our {rng.choice(roles)} in {rng.choice(TOWNS)}."
            for name in rng.sample(NAMES, 4)
        ]
        text = " ".join(team)
        yield Task(f"List name, email, role and city of all people in this text as JSON.\n\n{text}", PEOPLE)


def edits(rng: random.Random) -> Iterator[Task]:
    functions = [f for module in MODULES for f in vars(module).values() if inspect.isfunction(f)]
    sources = [source for f in functions if 8 <= len((source := inspect.getsource(f)).splitlines()) <= 24]
    while True:
        source = rng.choice(sources).rstrip()
        yield Task(f"Add a comment to this code and print the whole code again.\n\n```python\n{source}\n```")


def questions(rng: random.Random) -> Iterator[Task]:
    while True:
        yield Task(f"{rng.choice(QUESTIONS)} Answer in {rng.randrange(50, 150)} words.")


KINDS: dict[str, Callable[[random.Random], Iterator[Task]]] = {
    "summary": summaries,
    "people to JSON": people,
    "one order to JSON": orders,
    "code edit": edits,
    "chat": questions,
}


def cleared(task: Task, max_tokens: int) -> Cleared:
    messages = (Message(role="user", content=task.text),)
    request = Request(messages=messages, max_tokens=max_tokens, deadline=600.0, output_schema=task.schema)
    return PrivacyGuard().clear(Assessment(request=request, allowed=frozenset({Location.EDGE})), Location.EDGE)


def answer(backend: EdgeBackend, task: Task, max_tokens: int) -> Sample:
    parts, usage, begun, cpu = [], None, 0.0, 0.0
    for chunk in backend.stream(cleared(task, max_tokens)):
        if not begun:
            begun, cpu = time.perf_counter(), time.thread_time()
        parts.append(chunk.text)
        usage = chunk.usage
    assert usage is not None
    return Sample("".join(parts), usage, time.perf_counter() - begun, time.thread_time() - cpu)


Ask = Callable[[Task], tuple[Sample, Sample]]
"""Answers without speculation and with it."""


@contextmanager
def asking(folder: Path, max_tokens: int) -> Iterator[Ask]:
    common = {"model": folder, "threads": 1, "spin": False, "load": "eager", "reuse_prefixes": False}
    plain, quick = (EdgeBackend(EdgeConfig(speculation=each, **common)) for each in ("off", "auto"))
    turns = cycle([(plain, quick), (quick, plain)])

    def ask(task: Task) -> tuple[Sample, Sample]:
        samples = {backend: answer(backend, task, max_tokens) for backend in next(turns)}
        return samples[plain], samples[quick]

    with closing(plain), closing(quick):
        yield ask


def report(kind: str, samples: list[tuple[Sample, Sample]]) -> bool:
    """Print one line; returns whether all answers are equal."""
    plain, quick = ([pair[at] for pair in samples] for at in (0, 1))
    tokens = sum(sample.usage.completion_tokens - 1 for sample in plain)
    accepted = sum(sample.usage.accepted_prediction_tokens for sample in quick)
    rejected = sum(sample.usage.rejected_prediction_tokens for sample in quick)
    slow, fast = (sum(sample.seconds for sample in each) for each in (plain, quick))
    cpu = sum(sample.cpu for sample in plain) / sum(sample.cpu for sample in quick)
    equal = sum(one.text == other.text for one, other in samples)
    share = accepted / max(1, accepted + rejected)
    print(
        f"{kind:20}{tokens / slow:10.1f}{tokens / fast:10.1f}{slow / fast:8.2f}{cpu:8.2f}{accepted / tokens:12.0%}"
        f"{share:10.0%}{f'{equal} of {len(samples)}':>12}",
        flush=True,
    )
    return equal == len(samples)


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--prompts", type=int, default=6, help="of each kind")
    made.add_argument("--tokens", type=int, default=128, help="the most of an answer")
    made.add_argument("--seed", type=int, default=1, help="of the prompts")
    made.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "hybrid-llm-benchmarks")
    options = made.parse_args()
    announce(options)
    try:
        folder = real_weights(options.cache)
    except Unreachable as error:
        print(f"nothing is measured: {error}")
        return 0
    prompts, tokens = (1, 8) if options.smoke else (options.prompts, options.tokens)
    print(f"{'':20}{'tokens/s':>10}{'with':>10}{'ratio':>8}{'CPU':>8}{'of answer':>12}{'accepted':>10}{'equal':>12}")
    equal = True
    with asking(folder, tokens) as ask:
        for kind, tasks in KINDS.items():
            source = tasks(random.Random(options.seed))
            chosen = [next(source) for _ in range(prompts)]
            if options.smoke:
                chosen = [replace(task, text=task.text[:100]) for task in chosen]
            equal &= report(kind, [ask(task) for task in chosen])
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
