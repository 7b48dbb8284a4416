"""Each signal is read from its real source: trees of files as laptops, phones, boards and containers have them."""

from __future__ import annotations

import logging
import math
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.policies.language.schema import Objectives, Schema
from hybrid_llm.router.signals.kernel import CpuSource, MemorySource
from hybrid_llm.router.signals.source import Files
from hybrid_llm.router.signals.system import system_sources
from tests.router.sensors.machines import (
    BARE_VM,
    CONTAINER_V1,
    JETSON,
    KUBERNETES,
    KUBERNETES_V1_HOST,
    LAPTOP,
    MACHINES,
    MIB,
    NESTED_V2,
    PHONE,
    RASPBERRY,
    WSL,
    build,
    supply,
)

FIELDS = {**Schema({}, Objectives()).fields("device"), **Schema({}, Objectives()).fields("network")}


@pytest.fixture
def reported(tmp_path):
    """The signals of a machine that are present."""

    def read(files, number=[0]):  # noqa: B006 - counts the machines of one test
        number[0] += 1
        found = {}
        for source in system_sources(build(tmp_path / str(number[0]), files)):
            for name, value in zip(source.signals, source.read(), strict=True):
                if value is not None:
                    found[name.partition(".")[2]] = value
            source.close()
        return found

    return read


def test_a_laptop_on_battery_reports_everything(reported):
    """But the load, which is the difference of two readings: see below."""
    assert reported(LAPTOP) == {
        "memory_available_mb": 8192.0,
        "memory_total_mb": pytest.approx(15921.3, abs=0.1),
        "swap_available_mb": 3072.0,
        "memory_pressure": 1.5,
        "cpu_pressure": 7.25,
        "io_pressure": 1.5,
        "battery": pytest.approx(0.35),
        "charging": False,
        "temperature_c": 61.0,
        "thermal_headroom_c": 39.0,
        "throttled": False,
        "gpu_load": 0.37,
        "gpu_memory_available_mb": 3072.0,
        "gpu_memory_total_mb": 4096.0,
        "gpu_temperature_c": 52.0,
        "online": True,
    }


def test_a_phone_reports_the_temperature_of_its_processors_not_of_its_battery(reported):
    seen = reported(PHONE)
    assert (seen["temperature_c"], seen["thermal_headroom_c"], seen["throttled"]) == (71.5, -1.5, True)
    assert (seen["battery"], seen["charging"]) == (0.64, True)
    assert (seen["gpu_load"], seen["gpu_temperature_c"]) == (0.12, 66.0)
    assert seen["online"] is True
    assert "gpu_memory_available_mb" not in seen


def test_boards_report_what_they_have(reported):
    raspberry = reported(RASPBERRY)
    assert (raspberry["temperature_c"], raspberry["throttled"]) == (48.312, False)
    assert raspberry["online"] is True, "a network without a gateway leads off the device too"
    assert (
        reported({**RASPBERRY, "sys/devices/platform/soc/soc:firmware/get_throttled": "0x50005\n"})["throttled"] is True
    )
    assert {name: reported(JETSON)[name] for name in ("gpu_load", "gpu_temperature_c")} == {
        "gpu_load": 0.455,
        "gpu_temperature_c": 45.5,
    }


def test_a_container_of_version_1_has_what_its_own_group_allows(reported):
    seen = reported(CONTAINER_V1)
    assert seen["memory_total_mb"] == 512.0
    assert seen["memory_available_mb"] == 362.0
    assert seen["swap_available_mb"] == 568.0
    assert seen["cpu_pressure"] == 1.5, "version 1 has no pressure of its own"


def test_the_tightest_ancestor_limits_a_nested_group_of_version_2(reported):
    seen = reported(NESTED_V2)
    assert seen["memory_total_mb"] == 800.0, "memory.high counts as a limit"
    assert seen["memory_available_mb"] == 70.0, "the outermost group is nearly full"
    assert seen["memory_pressure"] == 1.5


def test_pods_have_what_the_pod_allows(reported):
    seen = reported(KUBERNETES)
    assert (seen["memory_total_mb"], seen["memory_available_mb"]) == (256.0, 192.0)
    assert (seen["io_pressure"], seen["online"]) == (1.5, True)
    assert "swap_available_mb" not in seen
    seen = reported(KUBERNETES_V1_HOST)
    assert (seen["memory_total_mb"], seen["memory_available_mb"]) == (100.0, 30.0)


def test_a_machine_without_anything_has_nothing_but_processors_and_memory(reported):
    assert set(reported(BARE_VM)) == {"memory_available_mb", "memory_total_mb", "online"}
    assert reported(BARE_VM)["online"] is False
    assert reported({}) == {}


def test_wsl_reports_the_battery_of_windows(reported):
    seen = reported(WSL)
    assert (seen["battery"], seen["charging"], seen["online"]) == (1.0, True, True)


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        (supply("BAT0", type="Battery", status="Discharging", capacity=40), (0.4, False)),
        (supply("BAT0", type="Battery", status="Not charging", capacity=80), (0.8, True)),
        (supply("BAT0", type="Battery", status="Unknown", capacity=80), (0.8, None)),
        (supply("BAT0", type="Battery", present=0, status="Unknown", capacity=0), (None, None)),
        (supply("BAT0", type="Battery", status="Full", capacity=101), (1.0, True)),
        (supply("BAT0", type="Battery", status="Full"), (None, None)),
        (supply("AC", type="Mains", online=1), (None, None)),
        (
            supply("a", type="Battery", charge_full=1000, charge_now=500, voltage_min_design=10_000_000)
            | supply("b", type="Battery", charge_full=3000, charge_now=3000, voltage_min_design=10_000_000),
            (0.875, None),
        ),
        (
            supply("a", type="Battery", energy_full=90, energy_now=0) | supply("b", type="Battery", capacity=100),
            (0.5, None),
        ),
    ],
)
def test_batteries_of_every_kind(reported, supplies, expected):
    seen = reported(supplies)
    assert (seen.get("battery"), seen.get("charging")) == (
        expected[0] if expected[0] is None else pytest.approx(expected[0]),
        expected[1],
    )


def cpu(root, seconds):
    """A source over *root* whose readings lie 1 s apart, and after the first reading of which nothing is paused."""
    clock = iter(range(seconds + 2))
    return CpuSource(Files(root), clock=lambda: float(next(clock)), pause=lambda _: None)


def test_the_load_of_a_limited_group_is_what_it_uses_of_its_limit(tmp_path):
    for number, (files, path, text, expected) in enumerate(
        [
            (NESTED_V2, "sys/fs/cgroup/system.slice/app.service/cpu.stat", "usage_usec 3500000\n", 0.75),
            (CONTAINER_V1, "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "3750000000\n", 0.5),
            (KUBERNETES, "sys/fs/cgroup/cpu.stat", "usage_usec 9000000\n", 1.0),
            (
                KUBERNETES_V1_HOST,
                "sys/fs/cgroup/cpu,cpuacct/kubepods/burstable/pod1234/cpuacct.usage",
                "1100000000\n",
                0.4,
            ),
        ]
    ):
        root = build(tmp_path / str(number), files)
        source = cpu(root, 3)
        source.read()
        (root / path).write_text(text)
        assert source.read() == (pytest.approx(expected),)
        source.close()


def test_without_a_limit_only_the_processors_count_that_the_process_may_use(tmp_path):
    later = "cpu  999 0 999 999 0 0 0 0 0 0\ncpu0 350 0 100 650 0 0 0 0 0 0\ncpu1 100 0 0 1000 0 0 0 0 0 0\n"
    for allowed, expected in (("0", 0.5), ("0-1", 0.25), ("1", 0.0)):
        root = build(tmp_path / allowed, {**LAPTOP, "proc/self/status": f"Cpus_allowed_list:\t{allowed}\n"})
        source = CpuSource(Files(root), pause=lambda _: None)
        source.read()
        (root / "proc/stat").write_text(later)
        assert source.read() == (pytest.approx(expected),)
        assert source.read() == (pytest.approx(expected),), "no tick has passed: the last load stands"
        source.close()


def test_a_limit_above_the_processors_at_hand_is_none(tmp_path):
    root = build(
        tmp_path, {**NESTED_V2, "proc/stat": LAPTOP["proc/stat"], "proc/self/status": "Cpus_allowed_list:\t0-1\n"}
    )
    source = CpuSource(Files(root), pause=lambda _: None)
    source.read()
    (root / "proc/stat").write_text("cpu0 400 0 100 600 0 0 0 0\ncpu1 200 0 0 900 0 0 0 0\n")
    assert source.read() == (pytest.approx(1.0),)
    source.close()


def test_a_source_that_was_closed_reads_what_is_there_then(tmp_path):
    root = build(tmp_path, KUBERNETES)
    source = MemorySource(Files(root))
    assert source.read()[1] == 256.0
    limit = root / "sys/fs/cgroup/memory.max"
    limit.unlink()
    limit.write_text(f"{128 * MIB}\n")
    source.close()
    assert source.read()[1] == 128.0
    source.close()


def in_range(name, value):
    if isinstance(value, bool) or value is None:
        return FIELDS[name].type.kind == "bool" if value is not None else True
    return math.isfinite(value) and (
        FIELDS[name].type.unit not in {"share", "percent"}
        or 0 <= value <= {"share": 1, "percent": 100}[FIELDS[name].type.unit]
    )


@settings(
    max_examples=int(os.environ.get("HYBRID_TESTS_SENSOR_RUNS", "40")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_are_absent_signals_and_never_an_exception(tmp_path_factory, data):
    machine = data.draw(st.sampled_from(sorted(MACHINES)))
    files = dict(MACHINES[machine])
    root = build(tmp_path_factory.mktemp("damaged"), files)
    for name in data.draw(st.lists(st.sampled_from(sorted(files)), max_size=8, unique=True)):
        text = files[name].encode()
        damage = data.draw(st.sampled_from(["empty", "gone", "random", "cut", "number", "huge", "folder"]))
        path = root / name
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "gone":
            path.write_bytes(
                {
                    "empty": b"",
                    "random": data.draw(st.binary(max_size=80)),
                    "cut": text[: len(text) // 2],
                    "number": str(data.draw(st.integers())).encode(),
                    "huge": b"9" * 5000,
                }[damage]
            )
    for source in system_sources(root):
        for _ in range(2):
            values = source.read()
            assert len(values) == len(source.signals)
            for name, value in zip(source.signals, values, strict=True):
                assert in_range(name.partition(".")[2], value), (name, value)
        source.close()


def test_an_unreadable_file_is_an_absent_signal_and_logged_once(tmp_path, caplog):
    """A folder in place of a file stands for what the kernel refuses, since tests may run as root."""
    root = build(tmp_path, {name: text for name, text in LAPTOP.items() if not name.startswith("proc/pressure")})
    for name in ("memory", "cpu", "io"):
        (root / "proc/pressure" / name).mkdir(parents=True)
    pressure = next(source for source in system_sources(root) if "device.io_pressure" in source.signals)
    with caplog.at_level(logging.WARNING, "hybrid_llm.sensors"):
        assert [pressure.read()[2] for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "proc/pressure" in caplog.text
    pressure.close()
