"""The way to a node: who waits, who is asked, and how the way back is found."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_llm.backends.grpc.health import Way
from hybrid_llm.core.errors import BackendUnavailable, UntrustedPeer


class Look:
    """A handshake that plays a script, the last step for ever, and ends when *go* is set."""

    def __init__(self, *script: Exception | None, go: threading.Event | None = None):
        self.script, self.go, self.calls = list(script), go, 0

    def __call__(self, timeout: float) -> None:
        self.calls += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if self.go is not None:
            assert self.go.wait(20.0)
        if step is not None:
            raise step


def silence() -> BackendUnavailable:
    error = BackendUnavailable("no answer", backend="cloud")
    error.__cause__ = TimeoutError()
    return error


def way(look: Look, **options) -> Way:
    options = {"longest": 5.0, "name": "cloud", "on_silence": lambda: None} | options
    return Way(look, **options)


def test_many_who_ask_at_once_share_one_look(tools):
    go = threading.Event()
    look = Look(None, go=go)
    road = way(look)

    async def many() -> None:
        await asyncio.gather(*(road.aprove(20.0) for _ in range(8)))

    with ThreadPoolExecutor(9) as threads:
        waiting = [threads.submit(road.prove, 20.0) for _ in range(8)] + [threads.submit(asyncio.run, many())]
        tools.eventually(lambda: look.calls == 1)
        time.sleep(0.1)
        go.set()
        for each in waiting:
            each.result()
    assert look.calls == 1


def test_each_who_waits_is_told_why_and_for_no_longer_than_it_has():
    go = threading.Event()
    road = way(Look(BackendUnavailable("refused", backend="cloud"), go=go))
    with pytest.raises(BackendUnavailable, match=r"within 0\.1 s"):
        road.prove(0.1)
    with pytest.raises(BackendUnavailable, match=r"within 0\.1 s"):
        asyncio.run(road.aprove(0.1))
    go.set()
    with pytest.raises(BackendUnavailable, match="refused"):
        road.prove(20.0)
    assert road.in_doubt
    assert not road.silent
    road.close()


def test_a_silent_node_is_told_at_once_and_the_way_back_is_found_without_being_asked(tools):
    fell = threading.Event()
    look = Look(silence(), silence(), None)
    road = way(look, on_silence=fell.set)
    with pytest.raises(BackendUnavailable, match="no answer"):
        road.prove(5.0)
    assert fell.wait(5.0)
    asked = look.calls
    for _ in range(20):
        with pytest.raises(BackendUnavailable, match="no answer"):
            road.prove(5.0)
    assert look.calls <= asked + 1, "who asks a silent node adds nothing to the looks"
    tools.eventually(lambda: not road.silent)
    road.prove(5.0)
    road.close()


def test_one_in_doubt_is_looked_at_by_whoever_asks_and_beside(tools):
    look = Look(UntrustedPeer("another authority", backend="cloud"), None)
    road = way(look)
    with pytest.raises(UntrustedPeer):
        road.prove(5.0)
    assert road.in_doubt
    tools.eventually(lambda: not road.in_doubt)
    road.close()


def test_what_somebody_who_asked_has_found_is_not_looked_for_any_more(tools):
    look = Look(BackendUnavailable("refused", backend="cloud"), None)
    road = way(look)
    with pytest.raises(BackendUnavailable):
        road.prove(5.0)
    road.prove(5.0)
    time.sleep(0.6)  # the first pause is a quarter of a second at most
    assert look.calls == 2
    look.script.insert(0, BackendUnavailable("refused again", backend="cloud"))
    with pytest.raises(BackendUnavailable):
        road.prove(5.0)
    tools.eventually(lambda: not road.in_doubt)
    assert look.calls == 4, "it is looked for again when it is lost again"
    road.close()


def test_a_node_that_was_heard_since_the_call_began_is_under_no_suspicion(tools):
    look = Look(None)
    road = way(look)
    began = time.monotonic()
    road.heard()
    road.suspect(began)
    assert look.calls == 0
    silent = Look(silence())
    other = way(silent)
    other.heard()
    other.suspect(time.monotonic())
    tools.eventually(lambda: other.silent)
    other.close()


def test_suspicions_are_followed_up_once_a_second_at_most(tools):
    look = Look(None)
    road = way(look)
    for _ in range(50):
        road.suspect(time.monotonic())
        time.sleep(0.002)
    assert look.calls == 1


def test_nobody_looks_once_it_is_closed(tools):
    look = Look(silence())
    road = way(look)
    with pytest.raises(BackendUnavailable):
        road.prove(5.0)
    road.close()
    time.sleep(0.1)
    before = look.calls
    time.sleep(1.2)  # by now it would have looked again, and been suspected long enough ago
    road.suspect(time.monotonic())
    time.sleep(0.1)
    assert look.calls == before


def test_a_node_that_nobody_wants_to_know_about_is_forgotten(tools):
    look = Look(BackendUnavailable("refused", backend="cloud"))
    road = way(look, interest=0.0)
    with pytest.raises(BackendUnavailable):
        road.prove(5.0)
    time.sleep(0.5)  # the first pause is a quarter of a second at most
    assert look.calls == 1
    assert not road.in_doubt
    with pytest.raises(BackendUnavailable, match="refused"):
        road.prove(5.0)
    assert look.calls == 2
    road.close()
