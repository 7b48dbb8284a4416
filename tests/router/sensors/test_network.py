"""Online and metered: from routes and carriers, in a namespace with a cable to unplug, and from a real D-Bus."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from hybrid_llm.router.signals.network import NetworkManagerSource, OnlineSource, system_property
from hybrid_llm.router.signals.source import Files
from tests.router.sensors.machines import HEAD, LOOPBACK, WIFI_ROUTES, build, link

ANYWHERE = "00000000000000000000000000000000"
V6 = f"{ANYWHERE} 00 {ANYWHERE} 00 fe80000000000000000000000000fe01 00000400 00000002 00000000 00000003"
LINK_V6 = f"fe800000000000000000000000000000 40 {ANYWHERE} 00 {ANYWHERE} 00000100 00000002 00000000 00000001"
REJECT_V6 = f"{ANYWHERE} 00 {ANYWHERE} 00 {ANYWHERE} ffffffff 00000001 00000000 00200200"
ROUTE = "{}\t{}\t00000000\t{:04X}\t0\t0\t0\t{}\t0\t0\t0\n"
WIFI, DOCKER = link("wlp2s0"), link("docker0", bridge=True)
DOCKER_NET = ROUTE.format("docker0", "000011AC", 1, "0000FFFF")


def default(device, flags=3):
    return ROUTE.format(device, "00000000", flags, "00000000")


@pytest.mark.parametrize(
    ("why", "routes", "links", "expected"),
    [
        ("a default route over Wi-Fi", {"route": WIFI_ROUTES}, WIFI | DOCKER, True),
        (
            "the Wi-Fi is gone, Docker's bridge is up",
            {"route": WIFI_ROUTES},
            link("wlp2s0", state="down") | DOCKER,
            False,
        ),
        (
            "no carrier, a driver without a state",
            {"route": HEAD + default("usb0")},
            link("usb0", state="unknown", carrier="0"),
            False,
        ),
        ("a phone's modem keeps no state", {"route": HEAD + default("rmnet0")}, link("rmnet0", state="unknown"), True),
        ("nothing but Docker", {"route": HEAD + DOCKER_NET}, DOCKER, False),
        ("a bridge that has the cable", {"route": HEAD + default("br0")}, link("br0", bridge=True), True),
        ("IPv6 alone", {"route": HEAD, "ipv6_route": f"{V6} eth0\n{LINK_V6} eth0\n"}, link("eth0"), True),
        ("IPv6 on the link alone", {"route": HEAD, "ipv6_route": f"{LINK_V6} eth0\n"}, link("eth0"), False),
        (
            "IPv6 that is refused",
            {"route": HEAD, "ipv6_route": f"{REJECT_V6} lo\n{REJECT_V6} eth0\n"},
            link("eth0"),
            False,
        ),
        ("a route that rejects", {"route": HEAD + default("eth0", 0x0201)}, link("eth0"), False),
        ("a route that is down", {"route": HEAD + default("eth0", 0)}, link("eth0"), False),
        (
            "an address that it gave itself",
            {"route": HEAD + ROUTE.format("eth0", "0000FEA9", 1, "0000FFFF")},
            link("eth0"),
            False,
        ),
        (
            "a container's own host route",
            {"route": HEAD + ROUTE.format("cali1", "0500000A", 5, "FFFFFFFF")},
            link("cali1"),
            False,
        ),
        (
            "a tunnel whose cable is pulled",
            {"route": HEAD + default("wg0")},
            link("wg0", state="unknown") | link("eth0", state="down"),
            False,
        ),
        (
            "a tunnel over Wi-Fi",
            {"route": HEAD + default("tun0") + default("wlp2s0")},
            link("tun0", state="unknown") | WIFI,
            True,
        ),
        (
            "a namespace that has a tunnel only",
            {"route": HEAD + default("vpn", 1)},
            link("vpn", state="unknown", kind="wireguard"),
            True,
        ),
        ("loopback alone", {"route": HEAD + default("lo")}, {}, False),
        ("IPv6 switched off", {"route": HEAD + default("eth0")}, link("eth0"), True),
        ("no routes are shown", {}, link("eth0"), None),
        ("a table that is damaged", {"route": HEAD + "eth0 zz\n" + default("eth0")}, link("eth0"), True),
    ],
)
def test_online_is_a_route_that_leads_off_the_device(tmp_path, why, routes, links, expected):
    files = {f"proc/net/{name}": text for name, text in routes.items()}
    source = OnlineSource(Files(build(tmp_path, {**files, **LOOPBACK, **links})))
    assert source.read() == (expected,), why
    source.close()


def test_a_table_longer_than_a_page_is_read_whole(tmp_path):
    many = "".join(ROUTE.format("cali1", f"{number:08X}", 5, "FFFFFFFF") for number in range(4000))
    source = OnlineSource(Files(build(tmp_path, {"proc/net/route": HEAD + many + default("eth0"), **link("eth0")})))
    assert source.read() == (True,)
    source.close()


IN_NAMESPACE = """
import sys
from hybrid_llm.router.signals import SystemSensors
sensors = SystemSensors(interval=0.1)
for line in sys.stdin:
    import time
    until = time.monotonic() + 10
    while sensors.read()[1].online is not (line.strip() == "True") and time.monotonic() < until:
        time.sleep(0.02)
    print(sensors.read()[1].online, flush=True)
sensors.close()
"""


@pytest.fixture
def namespace():
    """A network namespace with a cable from `near` to `far`, and a default route over it."""
    ip, name = shutil.which("ip") or "/sbin/ip", f"hybrid-llm-{os.getpid()}"

    def run(*arguments, inside=True):
        command = [ip, *(("-n", name) if inside else ()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)

    try:
        run("netns", "add", name, inside=False)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces need `ip` and the right to make them")
    try:
        try:
            run("link", "add", "near", "type", "veth", "peer", "name", "far")
        except subprocess.CalledProcessError:
            pytest.skip("the kernel has no veth")
        for end in ("near", "far"):
            run("link", "set", end, "up")
        run("addr", "add", "10.9.8.1/24", "dev", "near")
        run("route", "add", "default", "via", "10.9.8.2")
        yield name, run
    finally:
        run("netns", "del", name, inside=False)


def test_pulling_the_cable_turns_online_false_and_plugging_it_in_true(namespace):
    name, run = namespace
    command = [shutil.which("ip") or "ip", "netns", "exec", name, sys.executable, "-c", IN_NAMESPACE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def becomes(online):
            process.stdin.write(f"{online}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        assert becomes(True) == "True"
        run("link", "set", "far", "down")
        assert becomes(False) == "False"
        run("link", "set", "far", "up")
        assert becomes(True) == "True"
        run("route", "del", "default")
        run("addr", "flush", "dev", "near")
        assert becomes(False) == "False"
        process.stdin.close()
        assert process.wait(20) == 0


BUS = """<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy>
</busconfig>"""
NAME = "org.freedesktop.NetworkManager"


class FakeManager(threading.Thread):
    """NetworkManager as far as its properties go, on a real bus; written apart from the code under test."""

    def __init__(self, address, **properties):
        super().__init__(daemon=True)
        self.properties = properties
        self.bus = socket.socket(socket.AF_UNIX)
        self.bus.settimeout(20)
        self.bus.connect(address)
        self.bus.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        assert self.bus.recv(200).startswith(b"OK")
        self.bus.sendall(b"BEGIN\r\n")
        self.file = self.bus.makefile("rb")
        own = struct.pack("<I", len(NAME)) + NAME.encode() + b"\0"
        own += bytes(-len(own) % 4) + struct.pack("<I", 4)
        to_bus = [
            (1, b"o", "/org/freedesktop/DBus"),
            (2, b"s", "org.freedesktop.DBus"),
            (6, b"s", "org.freedesktop.DBus"),
        ]
        self.send(1, 1, [*to_bus, (3, b"s", "Hello")], b"")
        self.send(1, 2, [*to_bus, (3, b"s", "RequestName"), (8, b"g", "su")], own)
        while self.receive()[2].get(5) != 2:
            pass

    def send(self, kind, serial, fields, body):
        packed = b""
        for code, signature, value in fields:
            packed += bytes(-len(packed) % 8) + bytes([code, 1]) + signature + b"\0"
            if signature == b"u":
                packed += struct.pack("<I", value)
            elif signature == b"g":
                packed += bytes([len(value)]) + value.encode() + b"\0"
            else:
                packed += struct.pack("<I", len(value)) + value.encode() + b"\0"
        head = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), serial, len(packed)) + packed
        self.bus.sendall(head + bytes(-len(head) % 8) + body)

    def receive(self):
        _, kind, _, _, size, serial, length = struct.unpack("<cBBBIII", self.file.read(16))
        data, at, fields = self.file.read(length + -length % 8)[:length], 0, {}
        while at < len(data):
            at += -at % 8
            code, signature, at = data[at], data[at + 2 : at + 3], at + 4
            if signature == b"g":
                at += data[at] + 2
                continue
            number = struct.unpack_from("<I", data, at)[0]
            fields[code] = number if signature == b"u" else data[at + 4 : at + 4 + number].decode()
            at += 4 if signature == b"u" else number + 5
        return kind, serial, fields, self.file.read(size)

    def run(self):
        number = 10
        while True:
            try:
                kind, serial, fields, body = self.receive()
            except (OSError, struct.error):
                return
            if kind != 1:
                continue
            texts = [part for part in body.decode("latin1").split("\0") if part.isalnum()]
            value, number = self.properties.get(texts[-1] if texts else ""), number + 1
            back = [(5, b"u", serial), (6, b"s", fields[7])]
            if isinstance(value, int):
                self.send(2, number, [*back, (8, b"g", "v")], b"\x01u\0\0" + struct.pack("<I", value))
            elif value is not None:
                text = struct.pack("<I", len(value)) + value.encode() + b"\0"
                self.send(2, number, [*back, (8, b"g", "v")], b"\x01s\0\0" + text)
            else:
                self.send(3, number, [*back, (4, b"s", "org.freedesktop.DBus.Error.UnknownProperty")], b"")


@pytest.fixture
def bus():
    """The root of a machine with a real message bus, at a path that is short enough for a socket."""
    pytest.importorskip("jeepney", reason="jeepney is not installed: pip install 'hybrid-llm[dbus]'")
    if shutil.which("dbus-daemon") is None:
        pytest.skip("dbus-daemon is not installed")
    with tempfile.TemporaryDirectory(prefix="hl-") as folder:
        path = Path(folder, "run/dbus/system_bus_socket")
        path.parent.mkdir(parents=True)
        Path(folder, "bus.xml").write_text(BUS.format(path))
        command = ["dbus-daemon", f"--config-file={folder}/bus.xml", "--nofork", "--nopidfile", "--print-address=1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline()
                yield Path(folder), str(path)
            finally:
                process.kill()


@pytest.mark.parametrize(
    ("metered", "connectivity", "expected"),
    [(1, 4, (True, None)), (2, 4, (False, None)), (3, 1, (True, None)), (4, 2, (False, False)), (0, 0, (None, None))],
)
def test_networkmanager_reports_metered_and_a_portal_over_a_real_bus(bus, metered, connectivity, expected):
    root, address = bus
    FakeManager(address, Metered=metered, Connectivity=connectivity).start()
    assert NetworkManagerSource(Files(root)).read() == expected


def test_a_bus_without_networkmanager_reports_nothing_and_starts_nothing(bus):
    root, address = bus
    assert NetworkManagerSource(Files(root)).read() == (None, None)
    FakeManager(address, Metered="yes").start()
    assert NetworkManagerSource(Files(root)).read() == (None, None), "a text, and an error"
    assert (
        system_property(address, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Features")
        is None
    )


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"REJECTED EXTERNAL\r\n",
        b"OK 1234\r\n",
        b"OK 1234\r\n" + b"\0" * 16,
        b"OK 1234\r\n" + b"l\2\0\1" + struct.pack("<III", 1 << 31, 1, 1 << 31),
        b"OK 1234\r\n" + b"l\2\0\1" + struct.pack("<III", 0, 1, 8) + b"\5\1u\0\2\0\0\0",
        b"OK 1234\r\n" + b"l\2\0\1" + struct.pack("<III", 8, 1, 8) + b"\5\1u\0\2\0\0\0" + b"\1u\0",
        b"OK 1234\r\n" + b"l\2\0\1" + struct.pack("<III", 0, 1, 16) + b"\xff" * 16,
        b"x" * 2000,
    ],
)
def test_malformed_bytes_of_a_bus_raise_nothing(says):
    with tempfile.TemporaryDirectory(prefix="hl-") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/bus")
        server.listen()

        def answer():
            with server.accept()[0] as peer, contextlib.suppress(OSError):
                peer.sendall(says)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        assert system_property(f"{folder}/bus", NAME, "/", NAME, "Metered") is None
        thread.join()


def test_without_the_extra_the_signals_of_networkmanager_are_absent(bus, monkeypatch):
    root, address = bus
    FakeManager(address, Metered=1, Connectivity=2).start()
    monkeypatch.setitem(sys.modules, "jeepney", None)
    assert NetworkManagerSource(Files(root)).read() == (None, None)


def test_a_missing_bus_raises_nothing(tmp_path):
    assert system_property(str(tmp_path / "absent"), NAME, "/", NAME, "Metered") is None
    assert NetworkManagerSource(Files(tmp_path)).read() == (None, None)
