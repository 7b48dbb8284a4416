"""`hybrid-llm signals`: once, as JSON, and live on a terminal of any size that is left as it was found."""

import io
import json
import re
import signal
import sys
import threading
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from hybrid_llm.cli.signals_view import View, document, lines
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import (
    BackendState,
    Breaker,
    BudgetSignals,
    DeviceSignals,
    EndpointHealth,
    EndpointState,
    NetworkSignals,
    Signals,
)

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
LAPTOP = DeviceSignals(
    cpu_load=0.125,
    memory_available_mb=4000.0,
    memory_total_mb=16000.0,
    swap_available_mb=100.0,
    memory_pressure=0.0,
    cpu_pressure=7.25,
    io_pressure=0.5,
    battery=0.15,
    charging=False,
    temperature_c=61.0,
    thermal_headroom_c=39.0,
    throttled=True,
)
EDGE = BackendState(name="edge", location=Location.EDGE, context_window=2**31 - 1)
CLOUD = BackendState(
    name="eu-1",
    location=Location.CLOUD,
    breaker=Breaker.OPEN,
    rtt_ms=31.25,
    load=1.5,
    predicted_ttft_ms=250.0,
    predicted_ttft_error_ms=40.0,
)
SEEN = Signals(
    device=LAPTOP,
    network=NetworkSignals(metered=True),
    budget=BudgetSignals(spent=1.25, left=3.75),
    backends={"edge": EDGE, "eu-1": CLOUD},
)


def shown(signals=SEEN, columns=80, rows=60, colour=False, errors=()):
    """The lines of the live view in a window of *columns* and *rows*."""
    console = Console(
        file=io.StringIO(), width=columns, height=rows, force_terminal=True, color_system="standard" if colour else None
    )
    console.print(View(signals, "title", errors), end="")
    return [line.rstrip() for line in console.file.getvalue().split("\n")]


def row(name, among):
    return next(line for line in among if line.startswith(f"{name} "))


def heading(name, among):
    return next(number for number, line in enumerate(among) if line.rstrip("\u2500 ") == name)


def test_each_signal_is_printed_on_its_own_line_in_the_units_of_policies():
    found = dict(line.split(maxsplit=1) for line in lines(SEEN) if ".reason" not in line)
    assert found["device.cpu_load"] == "12.5%"
    assert found["device.cpu_pressure"] == "7.2%"
    assert found["device.memory_available_mb"] == "4,000 MiB"
    assert found["device.temperature_c"] == "61.0 C"
    assert found["device.gpu_load"] == "absent"
    assert found["network.metered"] == "true"
    assert found["budget.left"] == "3.75"
    assert found["edge.context_window"] == "unknown"
    assert (found["eu-1.breaker"], found["eu-1.rtt_ms"], found["eu-1.load"]) == ("open", "31.2 ms", "150.0%")


def test_the_live_view_shows_every_field_of_every_record_by_itself():
    screen = shown(columns=120)
    for owner in (LAPTOP, NetworkSignals(), BudgetSignals(), EDGE):
        for field in fields(owner):
            if field.name not in {"name", "location", "reason", "members"}:
                assert any(re.search(rf"\b{field.name}\b", line) for line in screen), field.name


def test_the_signals_of_each_owner_are_below_its_name_in_the_units_of_policies():
    screen = shown(columns=40)
    device, eu = screen[heading("device", screen) :], screen[heading("eu-1 (cloud)", screen) :]
    assert row("memory_available_mb", device).split()[1:] == ["4,000", "MiB"]
    assert row("memory_total_mb", device).split()[1:] == ["16,000", "MiB"]
    assert row("predicted_ttft_ms", eu).split()[1:] == ["250.0", "ms"]
    assert row("predicted_ttft_error_ms", eu).split()[1:] == ["40.0", "ms"]
    assert row("rtt_ms", eu).split()[1:] == ["31.2", "ms"]
    assert heading("device", screen) < heading("edge", screen) < heading("eu-1 (cloud)", screen)


POOL = replace(
    CLOUD,
    members=(
        EndpointState(
            address="10.0.0.7:7443", health=EndpointHealth.READY, active=2, load=0.25, rtt_ms=30.5, ttft_ms=80.0
        ),
        EndpointState(address="10.0.0.8:7443", health=EndpointHealth.EJECTED, breaker=Breaker.OPEN),
        EndpointState(address="10.0.0.9:7443", health=EndpointHealth.UNREACHABLE, reason="UntrustedPeer"),
    ),
)


def test_each_node_of_a_backend_is_shown_by_itself():
    seen = replace(SEEN, backends={"eu-1": POOL})
    screen = shown(seen, columns=120)
    assert row("each node", screen).split()[2:] == ["health", "breaker", "active", "queue", "load", "rtt_ms", "ttft_ms"]
    first, second, third = (line.split() for line in screen if line.startswith("eu-1 10.0.0."))
    assert first[1:6] == ["10.0.0.7:7443", "ready", "closed", "2", "0"]
    assert first[6:] == ["25.0%", "30.5", "ms", "80.0", "ms"]
    assert second[2:4] == ["ejected", "open"]
    assert third[2:4] == ["unreachable", "(UntrustedPeer)"]
    red = " ".join(re.findall(r"\x1b\[31m(.*?)\x1b\[0m", "\n".join(shown(seen, columns=120, colour=True))))
    assert "unreachable (UntrustedPeer)" in red
    assert "ejected" in red
    once = [line for line in lines(seen) if " node " in line]
    assert (
        once[1].split(maxsplit=3)[3].startswith("health ejected, breaker open, active 0, queue 0, load 0.0%, rtt_ms -")
    )
    members = document(seen, datetime.now(UTC))["eu-1"]["members"]
    assert [node["breaker"] for node in members] == ["closed", "open", "closed"]
    assert (members[0]["address"], members[0]["ttft_ms"], members[1]["rtt_ms"]) == ("10.0.0.7:7443", 80.0, None)


def test_what_is_absent_is_named_and_what_is_unknown_is_not_zero():
    screen = shown(replace(SEEN, device=DeviceSignals(cpu_load=float("nan"), memory_available_mb=float("nan"))))
    assert any(line.startswith("absent: swap_available_mb, ") for line in screen)
    assert "unknown" in row("cpu_load", screen)


def test_only_problems_are_red():
    screen = shown(colour=True)
    red = " ".join(re.findall(r"\x1b\[31m(.*?)\x1b\[0m", "\n".join(screen)))
    assert red.split() == ["15.0%", "true", "open", "150.0%"], "battery, throttled, breaker and load"
    assert "12.5%" not in red


def test_errors_and_reasons_are_shown_and_their_control_characters_escaped():
    hostile = replace(CLOUD, ready=False, reason="full\x1b[2J\nof\tit")
    screen = shown(replace(SEEN, backends={"eu-1": hostile}), errors=["eu-1: gone\x1b[H"])
    assert r"full\x1b[2J of it" in row("reason", screen)
    assert screen[-1] == r"eu-1: gone\x1b[H"


def test_a_window_that_is_too_low_says_how_much_is_hidden():
    whole, low = shown(), shown(rows=10)
    assert len(low) == 10
    assert low[-1].endswith("more lines: make the window higher")
    assert whole[:9] == low[:9]
    assert all(whole), "no line is wasted"
    assert len(shown(columns=80, rows=24)) <= 24


@settings(max_examples=60, deadline=None)
@given(
    columns=st.integers(1, 250),
    rows=st.integers(1, 80),
    backends=st.lists(st.text(max_size=40), max_size=9, unique=True),
    number=st.one_of(st.none(), st.floats(), st.integers(-(10**12), 10**12)),
)
def test_a_frame_fits_every_window_whatever_the_signals_are(columns, rows, backends, number):
    values = dict.fromkeys((field.name for field in fields(DeviceSignals)), number)
    node = EndpointState(address="h:1", rtt_ms=number)
    states = {name: replace(CLOUD, name=name, rtt_ms=number, reason=name, members=(node,)) for name in backends}
    signals = Signals(device=DeviceSignals(**values), backends=states)
    plain = shown(signals, columns, rows, errors=backends[:1])
    assert len(plain) <= rows
    assert all(cell_len(line) < max(2, columns) for line in plain)
    coloured = shown(signals, columns, rows, colour=True, errors=backends[:1])
    assert [ESCAPES.sub("", line).rstrip() for line in coloured] == plain
    json.dumps(document(signals, datetime.now(UTC)), allow_nan=False)
    lines(signals)


def test_json_has_the_names_that_a_policy_reads_and_null_for_what_is_absent(cli):
    seen = json.loads(cli("signals", "--json").out)
    assert set(seen) == {"time", "device", "network", "budget", "edge"}
    assert seen["device"]["memory_total_mb"] > 0
    assert seen["edge"]["context_window"] > 0
    assert datetime.fromisoformat(seen["time"]).tzinfo is not None
    nothing = document(replace(SEEN, device=DeviceSignals(cpu_load=float("nan"))), datetime.now(UTC))
    assert nothing["device"]["cpu_load"] is None
    assert nothing["device"]["battery"] is None


def test_json_that_follows_is_a_line_for_each_sample_until_ctrl_c(start):
    process = start("signals", "--json", "--follow", "--interval", "0.1")
    seen = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert len({line["time"] for line in seen}) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--follow",), "--follow needs --json"),
        (("--interval", "0"), "--interval must be between 0.1 and 3600 seconds"),
        (("--interval", "nan"), "--interval must be between"),
        (("--once", "--follow", "--json"), "not allowed with argument"),
    ],
)
def test_invalid_options_are_refused(cli, arguments, message):
    done = cli("signals", *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_probe_makes_the_state_of_a_node_known(cli, node, configure):
    without = json.loads(cli("signals", "--json", "--config", configure(node.port)).out)["cloud"]
    assert without["rtt_ms"] is None
    seen = json.loads(cli("signals", "--json", "--probe", "--config", configure(node.port)).out)["cloud"]
    assert seen["rtt_ms"] > 0
    assert seen["context_window"] == 2048


def test_a_probe_that_fails_says_why_and_the_rest_is_shown(cli, configure):
    done = cli("signals", "--once", "--probe", "--config", configure(1))
    assert done.code == 0
    assert done.err.startswith("cloud: ")
    assert "device.cpu_load" in done.out
    assert not [thread for thread in threading.enumerate() if thread.name == "hybrid-llm-probe"]


LEFT = "\x1b[?25h\x1b[?1049l"


def test_the_live_view_is_drawn_again_fits_a_new_size_and_ctrl_c_leaves_the_terminal_clean(terminal):
    screen = terminal("signals", "--interval", "0.2", TERM="xterm")
    screen.wait_for("\x1b[?1049h")
    screen.wait_for("\x1b[?25l")
    screen.wait_for("predicted_tpot_ms")
    screen.shown = ""
    screen.wait_for("hybrid-llm signals")
    screen.resize(60, 8)
    screen.wait_for("more lines: make the window higher")
    screen.type("\x03")
    assert screen.end() == 130
    assert screen.shown.endswith(LEFT)
    assert "Traceback" not in screen.shown


def test_the_live_view_ends_cleanly_when_it_is_terminated(terminal):
    screen = terminal("signals", TERM="xterm", NO_COLOR="1")
    screen.wait_for("predicted_tpot_ms")
    assert not ESCAPES.search(screen.shown), "no colours"
    screen.signal(signal.SIGTERM)
    assert screen.end() == 128 + signal.SIGTERM
    assert screen.shown.endswith(LEFT)


def test_a_terminal_that_cannot_be_drawn_on_gets_one_sample(terminal):
    screen = terminal("signals", TERM="dumb")
    assert screen.end() == 0
    assert "device.cpu_load" in screen.shown
    assert "\x1b" not in screen.shown


def test_without_rich_there_is_one_sample_as_text(monkeypatch, cli):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "device.cpu_load" in cli("signals").out
