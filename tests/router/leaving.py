"""Every way to leave a stream before its end. As a program: all of them, for `python -X dev -W error`, to the exit."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors

if TYPE_CHECKING:
    import pytest

LONG = {"prompt": "Count from 3 to 90.", "max_tokens": 200}
CLIENTS = (1, "{retries: 0}"), (2, "{retries: 0, hedge_after: 1ms}")
"""Arguments of `edge_client`: one backend, and two that hedge each other."""
held: list[object] = []


async def leave_by_break(llm: HybridLLM) -> None:
    async for _ in llm.astream(**LONG):
        break


async def leave_by_return(llm: HybridLLM) -> None:
    async with llm.astream(**LONG) as stream:
        async for _ in stream:
            return


async def leave_by_an_exception(llm: HybridLLM) -> None:
    try:
        async for _ in llm.astream(**LONG):
            raise LookupError
    except LookupError:
        pass


async def leave_by_aclose(llm: HybridLLM) -> None:
    stream = llm.astream(**LONG)
    await anext(stream)
    await stream.aclose()
    await stream.aclose()


async def leave_by_cancelling_the_task(llm: HybridLLM) -> None:
    began = asyncio.Event()
    task = asyncio.create_task(_read(llm, began))
    await began.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def leave_by_cancelling_before_anything_ran(llm: HybridLLM) -> None:
    task = asyncio.create_task(llm.agenerate(**LONG))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def leave_by_a_timeout(llm: HybridLLM) -> None:
    try:
        async with asyncio.timeout(0.05):
            await llm.agenerate(**LONG)
    except TimeoutError:
        pass


async def leave_by_a_scope_that_cancels_again_and_again(llm: HybridLLM) -> None:
    """As anyio does, and with it Starlette: whatever is awaited while cleaning up is cancelled too."""
    began, loop = asyncio.Event(), asyncio.get_running_loop()
    task = asyncio.create_task(_read(llm, began))
    await began.wait()

    def again() -> None:
        if not task.done():
            task.cancel()
            loop.call_soon(again)

    again()
    await asyncio.gather(task, return_exceptions=True)


async def leave_it_open_when_the_loop_ends(llm: HybridLLM) -> None:
    stream = llm.astream(**LONG)
    held.append(stream)
    await anext(stream)


async def leave_it_to_the_garbage_collector(llm: HybridLLM) -> None:
    stream = llm.astream(**LONG)
    cycle: list[object] = [stream]
    cycle.append(cycle)
    await anext(stream)
    del stream, cycle
    gc.collect()


async def leave_it_unopened(llm: HybridLLM) -> None:
    held.append(llm.astream(**LONG))
    llm.astream(**LONG)


async def _read(llm: HybridLLM, began: asyncio.Event) -> None:
    async with llm.astream(**LONG) as stream:
        async for _ in stream:
            began.set()


WAYS: dict[str, Callable[[HybridLLM], Awaitable[None]]] = {
    name: value for name, value in list(globals().items()) if name.startswith("leave_")
}


def leave(llm: HybridLLM, way: str, *, debug: bool, linger: bool) -> None:
    """Leave in *way* in an event loop of its own, which ends at once or a moment later."""

    async def main() -> None:
        await WAYS[way](llm)
        if linger:
            await asyncio.sleep(0.02)

    asyncio.run(main(), debug=debug)
    held.clear()
    gc.collect()


def leave_without_closing_the_generators(llm: HybridLLM) -> None:
    """A loop that is closed without `shutdown_asyncgens`."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave_it_open_when_the_loop_ends(llm))
    loop.close()
    held.clear()
    gc.collect()


def leave_sync(llm: HybridLLM) -> None:
    """Break, close and forget, without an event loop."""
    for _ in llm.stream(**LONG):
        break
    with llm.stream(**LONG) as stream:
        next(stream)
    llm.stream(**LONG)
    held.append(llm.stream(**LONG))
    held.clear()


def idle(llm: HybridLLM) -> bool:
    """Whether every slot is free within some seconds."""
    until = time.monotonic() + 20.0
    while any(state.active or state.queue for state in (backend.state() for backend in llm.backends)):
        if time.monotonic() > until:
            return False
        time.sleep(0.002)
    return True


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What asyncio logged, but for its notes on a busy machine in debug mode."""
    return [record.getMessage() for record in caplog.records if record.name == "asyncio" and not slow(record)]


def slow(record: logging.LogRecord) -> bool:
    """Whether *record* is asyncio's note, in debug mode, that a step of a task or a poll took long."""
    return record.getMessage().startswith(("Executing ", "poll "))


def edge_client(count: int = 1, resilience: str = "{retries: 0}") -> HybridLLM:
    """A client of *count* edge backends."""
    edges = [EdgeBackend(EdgeConfig(name=f"edge{number}", threads=1)) for number in range(count)]
    text = f"version: 1\nname: p\nresilience: {resilience}\n"
    policy = parse_policy(text, backends={edge.name: edge.location for edge in edges})
    return HybridLLM(edges, policy, sensors=FixedSensors())


def main() -> None:
    """Leave in every way; the last client is closed by nobody but a with statement."""
    logging.getLogger("hybrid_llm").setLevel(logging.ERROR)  # it may note that a call was hedged
    logging.getLogger("asyncio").addFilter(lambda record: not slow(record))
    for client in CLIENTS:
        with edge_client(*client) as llm:
            llm.generate("Hi.", max_tokens=2)
            for way in WAYS:
                for linger in (False, True):
                    leave(llm, way, debug=linger, linger=linger)
                    if not idle(llm):
                        sys.exit(f"{way}: a slot is not free")
            leave_without_closing_the_generators(llm)
            leave_sync(llm)
            if not idle(llm):
                sys.exit("a slot is not free")


if __name__ == "__main__":
    main()
