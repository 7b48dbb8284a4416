"""Slots admit no more than allowed, first come, first served; the watchdog calls back once."""

import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.edge.scheduling import Slots, Watchdog

SOON = 1e9


@given(
    sizes=st.lists(st.integers(1, 10), min_size=1, max_size=12),
    concurrency=st.integers(1, 4),
    memory=st.integers(10, 25),
)
@settings(max_examples=40, deadline=None)
def test_slots_and_memory_are_never_exceeded_and_everyone_runs(sizes, concurrency, memory):
    slots = Slots(concurrency=concurrency, queue=len(sizes), memory=memory)
    lock, used, running, seen = threading.Lock(), [0], [0], []

    def work(size, ticket):
        assert ticket.wait(size, SOON) == "admitted"
        with lock:
            used[0] += size
            running[0] += 1
            seen.append((used[0], running[0]))
        time.sleep(0.0005)
        with lock:
            used[0] -= size
            running[0] -= 1
        ticket.leave()
        ticket.leave()

    threads = [threading.Thread(target=work, args=(size, slots.enter())) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(seen) == len(sizes)
    assert all(memory_used <= memory and count <= concurrency for memory_used, count in seen)
    assert slots.active == slots.queued == 0


def test_a_small_request_does_not_overtake_a_large_one_that_waits():
    slots = Slots(concurrency=3, queue=3, memory=10)
    running, large, small = slots.enter(), slots.enter(), slots.enter()
    assert running.wait(6, SOON) == "admitted"
    assert small.wait(1, time.monotonic() + 0.05) == "expired"
    large.leave()
    assert small.wait(1, SOON) == "admitted"


def test_a_released_slot_admits_the_next_request():
    slots = Slots(concurrency=1, queue=2, memory=10)
    first, second, third = slots.enter(), slots.enter(), slots.enter()
    assert slots.enter() is None
    assert first.wait(1, SOON) == "admitted"
    result = []
    thread = threading.Thread(target=lambda: result.append(third.wait(1, SOON)))
    thread.start()
    second.cancel()
    assert second.wait(1, SOON) == "cancelled"
    second.leave()
    first.leave()
    thread.join(5)
    assert result == ["admitted"]


def test_alarms_ring_in_order_and_not_after_they_are_left():
    dog, rung = Watchdog(), []
    now = time.monotonic()
    with dog.alarm(now + 0.06, lambda: rung.append("second")), dog.alarm(now + 0.02, lambda: rung.append("first")):
        with dog.alarm(now + 0.01, lambda: rung.append("left")):
            pass
        with dog.alarm(float("inf"), lambda: rung.append("never")):
            time.sleep(0.2)
    dog.close()
    dog.close()
    assert rung == ["first", "second"]


def test_a_closed_watchdog_has_no_thread():
    dog = Watchdog()
    with dog.alarm(time.monotonic() + 60, lambda: None):
        dog.close()
    assert not any(thread.name == "hybrid-llm-edge-watchdog" for thread in threading.enumerate())
