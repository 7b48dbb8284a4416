"""The demonstration: an expectation that is not met is reported, counted and makes it exit with 1."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_llm.cli.demo import Report
from hybrid_llm.cli.demo.scenes import SCENES
from hybrid_llm.cli.demo.world import Check, Outcome, RecordingProxy, Scene, World, wait_until
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import DeadlineExceeded
from hybrid_llm.policies import parse_policy


def scene(title: str, *, true: bool) -> Scene:
    why = "the budget of 2 USD a day does not allow it: 1.99 USD have been spent today"
    decision = Decision(order=("edge",), excluded={"cloud": why}, policy="p", digest="d")
    return Scene(title, "", lambda _: Outcome(checks=(Check("it holds", true),), decision=decision))


def raising(_: World) -> Outcome:
    raise DeadlineExceeded("late", backend="cloud", elapsed=1.0)


class Nowhere(World):
    """A world in which nothing runs, and nothing has to come to rest."""

    def settle(self) -> None:
        pass


def test_an_unmet_expectation_and_an_unexpected_error_are_counted_and_shown(capsys):
    report = Report()
    played = [scene("good", true=True), scene("bad", true=False), Scene("late", "", raising)]
    report.play(Nowhere(Path()), played)
    report.table()
    printed = capsys.readouterr().out
    assert (report.total, report.failed) == (3, 2)
    assert "[FAILED] it holds" in printed
    assert "[FAILED] no DeadlineExceeded: late" in printed
    table = printed[printed.index("request ") :].splitlines()
    assert [line.split()[-1] for line in table if line[:4] in {"good", "bad ", "late"}] == ["ok", "FAILED", "FAILED"]
    assert max(map(len, table)) <= 120


def test_a_scene_that_ends_in_an_error_says_which(capsys):
    report = Report()
    report.play(Nowhere(Path()), [Scene("late", "", raising)])
    report.table()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("late ")]
    assert row.split()[3] == "DeadlineExceeded"


def test_scenes_have_titles_that_fit_the_table_and_their_own_names():
    titles = [scene.title for scene in SCENES]
    assert len(set(titles)) == len(titles)
    assert max(map(len, titles)) <= 17


def test_the_policy_of_the_demonstration_is_valid_and_has_no_warnings():
    assert parse_policy(World.policy_text()).warnings == ()


def test_a_folder_without_a_model_is_an_error_and_nothing_is_started(cli, tmp_path):
    done = cli("demo", "--node-model", tmp_path)
    assert done.code == 3
    assert "--node-model" in done.err


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that echoes what it receives."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(64):
            connection.sendall(data)


def said(line: socket.socket, text: bytes, seconds: float = 5.0) -> bytes:
    line.settimeout(seconds)
    line.sendall(text)
    return line.recv(64)


def echoes(line: socket.socket) -> bool:
    try:
        return said(line, b"x") == b"x"
    except ConnectionError:
        return False


def test_a_line_counts_stalls_breaks_and_is_restored(echo):
    with RecordingProxy(delay_s=0.0) as proxy:
        proxy.target_port = echo
        with socket.create_connection(("127.0.0.1", proxy.port)) as line:
            assert said(line, b"one") == b"one"
            assert proxy.bytes_to_node == 0, "gRPC's pings are as short"
            assert said(line, b"1" * 60) == b"1" * 60
            assert proxy.bytes_to_node == 60
            proxy.stalled = True
            with pytest.raises(TimeoutError):
                said(line, b"two", 0.2)
            proxy.stalled = False
            line.settimeout(5.0)
            assert line.recv(64) == b"two"
            proxy.cut()
            wait_until(lambda: not echoes(line))
            assert not echoes(line)
        with socket.create_connection(("127.0.0.1", proxy.port)) as refused:
            assert not echoes(refused)
        proxy.restore()
        with socket.create_connection(("127.0.0.1", proxy.port)) as line:
            assert said(line, b"five") == b"five"
