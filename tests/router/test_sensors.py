"""Signals are read from real sources: this machine's, and trees of files shaped like a container's."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from hybrid_llm.router.sensors import SystemSensors
from hybrid_llm.router.sensors.cgroup import ControlGroup, pressure_some_avg10

MIB = 1024 * 1024


def tree(root: Path, files: dict[str, str]) -> ControlGroup:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return ControlGroup(root)


def test_version_2_limits_are_read_from_the_group_of_the_process(tmp_path):
    group = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/app\n",
            "sys/fs/cgroup/app/memory.max": f"{512 * MIB}\n",
            "sys/fs/cgroup/app/memory.current": f"{200 * MIB}\n",
            "sys/fs/cgroup/app/memory.stat": f"anon 1\ninactive_file {50 * MIB}\n",
            "sys/fs/cgroup/app/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/app/cpu.stat": "usage_usec 2500000\n",
            "sys/fs/cgroup/app/memory.pressure": "some avg10=1.50 avg60=0.00\nfull avg10=9.00\n",
        },
    )
    assert group.memory_left() == 362 * MIB
    assert group.memory_limit() == 512 * MIB
    assert group.cpu_limit() == 1.5
    assert group.cpu_seconds() == 2.5
    assert group.pressure("memory") == 1.5


def test_version_1_limits_are_read_per_controller(tmp_path):
    group = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{100 * MIB}",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{40 * MIB}",
            "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/cpuacct/job/cpuacct.usage": "3000000000",
        },
    )
    assert group.memory_left() == 60 * MIB
    assert group.cpu_limit() == 0.5
    assert group.cpu_seconds() == 3.0


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
        {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
    ],
)
def test_no_limit_is_none_and_not_a_number(tmp_path, files):
    group = tree(tmp_path, files)
    assert group.memory_left() is None
    assert group.memory_limit() is None
    assert group.cpu_limit() is None


def test_a_kernel_without_psi_has_no_pressure():
    assert pressure_some_avg10("") is None
    assert pressure_some_avg10("some avg10=2.25 avg60=1.00 total=5\n") == 2.25


def test_this_machine_is_read_for_real_and_the_sampler_stops_with_close():
    sensors = SystemSensors(interval=0.01)
    before = threading.active_count()
    device, network = sensors.read()
    assert 0.0 <= device.cpu_load <= 1.0
    assert 0.0 < device.memory_available_mb <= device.memory_total_mb
    assert isinstance(network.online, bool)
    assert threading.active_count() == before + 1
    sensors.close()
    until = time.monotonic() + 2.0
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_container_limit_is_what_the_device_has(tmp_path):
    tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": f"{64 * MIB}",
            "sys/fs/cgroup/memory.current": f"{60 * MIB}",
        },
    )
    sensors = SystemSensors(root=tmp_path)
    device, _ = sensors.read()
    sensors.close()
    assert device.memory_total_mb == 64
    assert device.memory_available_mb == 4
