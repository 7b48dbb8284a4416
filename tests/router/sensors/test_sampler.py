"""Sampling beside the requests: a hanging source delays no other, stale values expire, and no thread is left."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import threading
import time

import pytest

from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.signals.system import UNKNOWN, Sampler
from tests.router.sensors.machines import LAPTOP, build


class Given:
    """A source that gives one signal, and can hang or break."""

    every = 1.0

    def __init__(self, name, value, every=1.0):
        self.signals, self.value, self.every = (name,), value, every
        self.go = threading.Event()
        self.go.set()
        self.reads, self.closed, self.error = 0, False, None

    def read(self):
        self.reads += 1
        self.go.wait(30)
        if self.error:
            raise self.error
        return (self.value,)

    def close(self):
        self.closed = True


@pytest.fixture
def sampled():
    opened = []

    def make(*sources, interval=0.02):
        opened.append((SystemSensors(interval=interval, sources=lambda: sources), sources))
        return opened[-1][0]

    yield make
    for sensors, sources in opened:
        for source in sources:
            source.go.set()
        sensors.close()


def ours():
    return [thread for thread in threading.enumerate() if thread.name.startswith("hybrid-llm-sensors")]


def wait_for(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.005)


def test_this_machine_is_read_for_real_and_nothing_is_left_after_close():
    sensors = SystemSensors(interval=0.05)
    assert not ours(), "nothing runs before the first read"
    device, network = sensors.read()
    assert 0.0 < device.memory_available_mb <= device.memory_total_mb
    wait_for(lambda: sensors.read()[0].cpu_load >= 0.0)
    assert sensors.read()[0].cpu_load <= 1.0
    assert isinstance(network.online, bool)
    assert ours()
    sensors.close()
    assert not ours()
    assert sensors.read()[0].memory_total_mb == device.memory_total_mb, "the last sample stays"


def test_a_tree_of_files_is_a_machine(tmp_path):
    sensors = SystemSensors(root=build(tmp_path, LAPTOP))
    device, network = sensors.read()
    sensors.close()
    assert (device.battery, device.charging, network.online, network.metered) == (0.35, False, True, None)
    assert math.isnan(device.cpu_load), "one reading of files that do not change is no load"


def test_reading_takes_no_sample_after_the_first(sampled):
    source = Given("device.battery", 0.5)
    sensors = sampled(source, interval=60.0)
    assert sensors.read()[0].battery == 0.5
    for _ in range(1000):
        sensors.read()
    assert source.reads == 1


def test_each_source_has_its_own_pace(sampled):
    quick, slow = Given("device.cpu_load", 0.1), Given("device.battery", 0.5, every=1000.0)
    sensors = sampled(quick, slow)
    sensors.read()
    wait_for(lambda: quick.reads > 5)
    assert slow.reads == 1


def test_a_source_that_hangs_from_the_start_delays_no_other(sampled):
    stuck, fine = Given("network.metered", True), Given("device.cpu_load", 0.1)
    stuck.go.clear()
    sensors = sampled(stuck, fine)
    sensors.read()
    wait_for(lambda: sensors.read()[0].cpu_load == 0.1)
    fine.value = 0.2
    wait_for(lambda: sensors.read()[0].cpu_load == 0.2)
    assert sensors.read()[1].metered is None
    assert stuck.reads == 1
    stuck.go.set()
    wait_for(lambda: sensors.read()[1].metered is True)


def test_the_last_value_of_a_hanging_source_expires_and_comes_back(sampled):
    stuck, fine = Given("device.battery", 0.9), Given("device.cpu_load", 0.1)
    sensors = sampled(fine, stuck)
    assert sensors.read()[0].battery == 0.9
    stuck.go.clear()
    wait_for(lambda: sensors.read()[0].battery is None)
    assert sensors.read()[0].cpu_load == 0.1
    stuck.value = 0.8
    stuck.go.set()
    wait_for(lambda: sensors.read()[0].battery == 0.8)


def test_close_does_not_wait_for_a_hanging_source(sampled):
    stuck, fine = Given("device.battery", 0.9), Given("device.cpu_load", 0.1)
    sensors = sampled(fine, stuck)
    sensors.read()
    stuck.go.clear()
    wait_for(lambda: stuck.reads > 1)
    began = time.monotonic()
    sensors.close()
    assert time.monotonic() - began < 5.0
    assert fine.closed
    stuck.go.set()
    wait_for(lambda: not ours())


def test_a_failing_source_is_absent_logged_once_and_retried(sampled, caplog):
    broken, fine = Given("device.temperature_c", 50.0), Given("device.cpu_load", 0.1)
    broken.error = RuntimeError("contact lost")
    with caplog.at_level(logging.WARNING, "hybrid_llm.sensors"):
        sensors = sampled(broken, fine)
        device, _ = sensors.read()
        wait_for(lambda: broken.reads > 5)
    assert (device.temperature_c, device.cpu_load) == (None, 0.1)
    assert [record.getMessage() for record in caplog.records] == ["reading device.temperature_c failed: RuntimeError"]
    broken.error = None
    wait_for(lambda: sensors.read()[0].temperature_c == 50.0)


def test_of_two_values_for_a_signal_false_counts(sampled):
    sensors = sampled(Given("network.online", True), Given("network.online", False), Given("network.online", None))
    assert sensors.read()[1].online is False


def test_signals_without_a_value_are_unknown_and_not_zero(sampled):
    sensors = sampled(Given("device.battery", None))
    device, network = sensors.read()
    assert all(math.isnan(value) for value in (device.cpu_load, device.memory_available_mb, device.memory_total_mb))
    assert network.online, "not known to be offline"


def test_sensors_closed_before_the_first_read_start_nothing(sampled):
    source = Given("device.battery", 0.5)
    sensors = sampled(source)
    sensors.close()
    assert sensors.read() is UNKNOWN
    assert source.reads == 0
    assert not ours()


def test_many_threads_that_read_first_start_one_sampler(sampled):
    source = Given("device.battery", 0.5)
    sensors = sampled(source, interval=60.0)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(sensors.read()[0].battery)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [0.5] * 16
    assert len([thread for thread in ours() if thread.name == "hybrid-llm-sensors"]) == 1


def test_without_readers_sampling_slows_down_until_the_next_read():
    lasts = []
    sampler = Sampler(
        sources=[Given("device.battery", 0.5)],
        publish=lambda _, until: lasts.append(until - time.monotonic()),
        interval=0.1,
        quiet=0.2,
    )
    sampler.start()
    wait_for(lambda: lasts and lasts[-1] > 3.0)
    assert lasts[0] < 3.0
    sampler.asked = True
    wait_for(lambda: lasts[-1] < 3.0)
    sampler.close()
    assert not ours()


FORK = """
import os, threading, time
from hybrid_llm.router.signals import SystemSensors
sensors = SystemSensors(interval=0.05)
sensors.read()
child = os.fork()
if not child:
    assert not [t for t in threading.enumerate() if t.name.startswith("hybrid-llm")]
    first = sensors.read()[0]
    assert first.memory_total_mb > 0
    until = time.monotonic() + 10
    while sensors.read()[0] is first:
        assert time.monotonic() < until
        time.sleep(0.01)
    sensors.close()
    os._exit(0 if threading.active_count() == 1 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert sensors.read()[0].memory_total_mb > 0
sensors.close()
assert threading.active_count() == 1
"""


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="this system does not fork")
def test_a_forked_child_starts_a_sampler_of_its_own():
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
