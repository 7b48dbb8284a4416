"""Continuations of broken answers, and answers under a schema, with real models.

    python -m benchmarks continuations [--full]

`--full` runs a thousand of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import threading
import time
from collections.abc import Iterator

import jsonschema

from benchmarks._resilience import MANY_FAILURES, client, many, row
from benchmarks._run import parsed, parser
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.protocols import Backend
from hybrid_llm.router.client import HybridLLM
from tests.chaos.real import BOUNDED, RealWorld
from tests.e2e.test_continuations import Cut


@contextlib.contextmanager
def both_sides() -> Iterator[tuple[Backend, Backend]]:
    """The edge backend and a node with the demonstration models."""
    with RealWorld(nodes=1) as world:
        pool = world.pool()
        edge = EdgeBackend(EdgeConfig())
        try:
            yield edge, pool
        finally:
            edge.close()
            pool.close()


def continuations(edge: Backend, cloud: Backend, count: int) -> None:
    """Each answer breaks off once after a random number of chunks, and the other backend continues it."""
    print(f"{count} cuts at random places")
    row("", "complete", "continued", "typed error", "valid JSON", "lost", "s")
    for name, first, second in (("cloud to edge", cloud, edge), ("edge to cloud", edge, cloud)):
        for kind in ("generate", "agenerate"):
            row(f"{name}, {kind}", *_continued(first, second, kind, count // 4))


def _continued(first: Backend, second: Backend, kind: str, count: int) -> tuple[object, ...]:
    draw, began = random.Random(count), time.monotonic()
    complete = continued = typed = valid = asked = lost = 0
    for number in range(count):
        is_json = number % 2 == 0
        asked += is_json
        text = f"retries: 1, retry_budget: 100%, continue_streams: true, {MANY_FAILURES}"
        sides = [Cut(first, draw.randint(1, 24)), Cut(second)]
        options = {"output_schema": BOUNDED if is_json else None, "max_tokens": 120 if is_json else 32}
        options |= {"temperature": 1.0 if is_json else 0.0, "deadline": 30.0}
        prompt = "Describe a train." if is_json else "Count from 3 to 20."
        try:
            with client(sides, text) as llm:
                reply = _ask(llm, kind, prompt, options)
        except HybridLLMError:
            typed += 1
            continue
        except Exception as error:  # noqa: BLE001  # counted, and printed
            print(repr(error))
            lost += 1
            continue
        complete, continued = complete + 1, continued + bool(reply.continuations)
        valid += is_json and _is_valid(reply.text)
    return complete, continued, typed, f"{valid}/{asked}", lost, time.monotonic() - began


def _ask(llm: HybridLLM, kind: str, prompt: str, options: dict[str, object]) -> Generation:
    return llm.generate(prompt, **options) if kind == "generate" else asyncio.run(llm.agenerate(prompt, **options))


def schema(edge: Backend, cloud: Backend, count: int) -> None:
    """Sampled answers under a schema."""
    print(f"{count} generations at temperature 1 under a schema")
    row("", "valid", "median ms")
    for name, backend in (("edge", edge), ("node", cloud)):
        with client([backend], "retries: 0") as llm:
            row(name, *_generations(llm, count))  # closes the backend


def _generations(llm: HybridLLM, count: int) -> tuple[str, float]:
    times: list[float] = []
    valid = 0
    lock = threading.Lock()

    def ask(number: int) -> float:
        nonlocal valid
        began = time.monotonic()
        reply = llm.generate(
            "Describe a train.", output_schema=BOUNDED, temperature=1.0, seed=number, max_tokens=120, deadline=60.0
        )
        with lock:
            valid += _is_valid(reply.text)
            times.append(1e3 * (time.monotonic() - began))
        return 0.0

    many(ask, count, 4)
    return f"{valid}/{count}", statistics.median(times)


def _is_valid(text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), BOUNDED)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--full", action="store_true", help="a thousand of each")
    options = parsed(made)
    count = 4 if options.smoke else 1000 if options.full else 200
    with both_sides() as (edge, cloud):
        continuations(edge, cloud, count)
        schema(edge, cloud, count)


if __name__ == "__main__":
    main()
