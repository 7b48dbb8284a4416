"""Probes beside the calls: one at a time, shared by all who wait, repeated until the endpoint is back."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hybrid_llm.backends.prober import Prober
from hybrid_llm.core.errors import BackendUnavailable, UntrustedPeer
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.signals import Breaker, EndpointHealth


class Handshake:
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


def prober_of(handshake: Handshake, **options) -> tuple[Prober, HealthProbe]:
    options = {"timeout": 5.0, "name": "cloud", "on_silent": lambda: None} | options
    health = HealthProbe(failures=2, open_s=5.0)
    return Prober(handshake, health, **options), health


def ensure_reachable(prober: Prober, timeout: float) -> None:
    if (error := prober.fault(timeout)) is not None:
        raise error


async def aensure_reachable(prober: Prober, timeout: float) -> None:
    if (error := await prober.afault(timeout)) is not None:
        raise error


def test_many_callers_at_once_share_one_probe(tools):
    go = threading.Event()
    handshake = Handshake(None, go=go)
    prober, _ = prober_of(handshake)

    async def many() -> None:
        await asyncio.gather(*(aensure_reachable(prober, 20.0) for _ in range(8)))

    with ThreadPoolExecutor(9) as threads:
        waiting = [threads.submit(ensure_reachable, prober, 20.0) for _ in range(8)]
        waiting += [threads.submit(asyncio.run, many())]
        tools.eventually(lambda: handshake.calls == 1)
        time.sleep(0.1)
        go.set()
        for each in waiting:
            each.result()
    assert handshake.calls == 1


def test_each_caller_learns_why_and_waits_no_longer_than_it_has():
    go = threading.Event()
    prober, health = prober_of(Handshake(BackendUnavailable("refused", backend="cloud"), go=go))
    with pytest.raises(BackendUnavailable, match=r"within 0\.1 s"):
        ensure_reachable(prober, 0.1)
    with pytest.raises(BackendUnavailable, match=r"within 0\.1 s"):
        asyncio.run(aensure_reachable(prober, 0.1))
    go.set()
    with pytest.raises(BackendUnavailable, match="refused"):
        ensure_reachable(prober, 20.0)
    assert health.fault == "BackendUnavailable"
    assert not health.silent
    prober.close()


def test_a_silent_endpoint_fails_at_once_and_is_found_again_without_a_call(tools):
    fell = threading.Event()
    handshake = Handshake(silence(), silence(), None)
    prober, health = prober_of(handshake, on_silent=fell.set)
    with pytest.raises(BackendUnavailable, match="no answer"):
        ensure_reachable(prober, 5.0)
    assert fell.wait(5.0)
    probes = handshake.calls
    for _ in range(20):
        with pytest.raises(BackendUnavailable, match="no answer"):
            ensure_reachable(prober, 5.0)
    assert handshake.calls <= probes + 1, "calls of a silent endpoint add no probes"
    tools.eventually(lambda: not health.silent)
    ensure_reachable(prober, 5.0)
    prober.close()


def test_an_untrusted_endpoint_is_probed_by_its_callers_and_beside_them(tools):
    handshake = Handshake(UntrustedPeer("another authority", backend="cloud"), None)
    prober, health = prober_of(handshake)
    with pytest.raises(UntrustedPeer):
        ensure_reachable(prober, 5.0)
    assert health.fault == "UntrustedPeer"
    tools.eventually(lambda: not health.fault)
    prober.close()


def test_an_endpoint_that_was_found_again_is_not_probed_any_more(tools):
    handshake = Handshake(BackendUnavailable("refused", backend="cloud"), None)
    prober, health = prober_of(handshake)
    with pytest.raises(BackendUnavailable):
        ensure_reachable(prober, 5.0)
    tools.eventually(lambda: not health.fault)
    time.sleep(0.3)  # the first pause is a tenth of a second at most
    assert handshake.calls == 2
    handshake.script.insert(0, BackendUnavailable("refused again", backend="cloud"))
    with pytest.raises(BackendUnavailable):
        ensure_reachable(prober, 5.0)
    tools.eventually(lambda: not health.fault)
    assert handshake.calls == 4, "it is probed again when it is lost again"
    prober.close()


def test_many_calls_of_an_endpoint_that_is_gone_add_few_probes():
    handshake = Handshake(BackendUnavailable("refused", backend="cloud"))
    prober, _ = prober_of(handshake)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        with pytest.raises(BackendUnavailable, match="refused"):
            ensure_reachable(prober, 5.0)
    assert handshake.calls < 100, "thousands of calls"
    prober.close()


class Serving(Handshake):
    """The question whether an endpoint serves; each step of the script an answer."""


def test_only_an_endpoint_of_which_something_is_wrong_is_asked_whether_it_serves(tools):
    check = Serving(BackendUnavailable("it does not serve", backend="cloud"), None)
    prober, health = prober_of(Handshake(None), check=check)
    ensure_reachable(prober, 5.0)
    assert (check.calls, health.fault) == (0, "")
    prober.doubt()
    tools.eventually(lambda: check.calls == 2 and not health.fault)
    ensure_reachable(prober, 5.0)
    assert check.calls == 2
    prober.close()


def test_an_endpoint_that_can_be_reached_and_does_not_serve_is_not_used(tools):
    check = Serving(BackendUnavailable("it does not serve", backend="cloud"), go=threading.Event())
    prober, health = prober_of(Handshake(None), check=check)
    prober.doubt()
    assert health.health is EndpointHealth.SUSPECTED
    check.go.set()
    tools.eventually(lambda: health.health is EndpointHealth.UNREACHABLE)
    with pytest.raises(BackendUnavailable, match="does not serve"):
        ensure_reachable(prober, 5.0)
    prober.close()


def test_an_ejected_endpoint_is_probed_until_that_ends_the_ejection(tools):
    handshake = Handshake(None)
    prober, health = prober_of(handshake)
    for _ in range(3):
        while health.breaker is Breaker.CLOSED:
            health.failed()
        prober.doubt()
        tools.eventually(lambda: health.breaker is Breaker.CLOSED)
    assert handshake.calls > 3, "the second time it is too early for the first probe"
    prober.close()


def test_an_endpoint_that_was_heard_since_the_call_began_is_not_suspected(tools):
    handshake = Handshake(None)
    prober, _ = prober_of(handshake)
    began = time.monotonic()
    prober.heard()
    prober.suspect(began)
    assert handshake.calls == 0
    other, health = prober_of(Handshake(silence()))
    other.heard()
    other.suspect(time.monotonic())
    tools.eventually(lambda: health.silent)
    other.close()


def test_suspicions_are_followed_up_once_a_second_at_most(tools):
    handshake = Handshake(None)
    prober, _ = prober_of(handshake)
    for _ in range(50):
        prober.suspect(time.monotonic())
        time.sleep(0.002)
    assert handshake.calls == 1


def test_no_probe_starts_once_it_is_closed(tools):
    handshake = Handshake(silence())
    prober, _ = prober_of(handshake)
    with pytest.raises(BackendUnavailable):
        ensure_reachable(prober, 5.0)
    prober.close()
    time.sleep(0.1)
    before = handshake.calls
    time.sleep(1.2)  # by now it would have been probed again, and the last probe is long enough ago for a suspicion
    prober.suspect(time.monotonic())
    time.sleep(0.1)
    assert handshake.calls == before


def test_an_endpoint_of_no_interest_is_forgotten(tools):
    handshake = Handshake(BackendUnavailable("refused", backend="cloud"))
    prober, health = prober_of(handshake, interest_s=0.0)
    with pytest.raises(BackendUnavailable):
        ensure_reachable(prober, 5.0)
    time.sleep(0.5)  # the first pause is a quarter of a second at most
    assert handshake.calls == 1
    assert not health.fault
    with pytest.raises(BackendUnavailable, match="refused"):
        ensure_reachable(prober, 5.0)
    assert handshake.calls == 2
    prober.close()
