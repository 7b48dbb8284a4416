"""The number of threads follows what the machine can spare, in the middle of an answer, and changes no bit of it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.edge.sessions import Reading, Sessions


class Machine:
    """A meter whose clock runs a second a reading, with as many idle processors as a test says."""

    def __init__(self, idle: float, own: float = 1.0) -> None:
        self.idle, self.own = idle, own
        self.reading = Reading(0.0, 0.0, 0.0)

    def __call__(self) -> Reading:
        before = self.reading
        self.reading = Reading(before.at + 1.0, before.idle + self.idle, before.own + self.own)
        return self.reading


def settled(sessions):
    """The number of threads once the machine was looked at for *seconds* of its own clock."""
    for _ in range(8):
        sessions._next = 0.0  # the pause between two looks is by the real clock
        sessions.session()
        while sessions._opening is not None:
            time.sleep(0.001)
    return sessions.threads


@pytest.mark.parametrize(
    ("most", "idle", "own", "expected"),
    [
        (2, 0.0, 2.0, 2),  # quiet: two threads of ours use both
        (2, 1.0, 1.0, 2),  # quiet: one of ours, one idle
        (2, 0.9, 0.9, 2),  # nearly
        (2, 0.0, 1.3, 1),  # beside one busy process
        (2, 0.0, 0.7, 1),  # beside two
        (8, 3.0, 2.0, 4),
        (8, 0.1, 0.4, 1),
        (1, 1.0, 1.0, 1),
    ],
)
def test_threads_fit_what_is_spare(most, idle, own, expected):
    machine = Machine(idle, own)
    sessions = Sessions(lambda count: ("session", count), most, machine)
    assert settled(sessions) == expected
    assert sessions.session() == ("session", expected)
    machine.idle, machine.own = float(most), 0.0
    assert settled(sessions) == most
    assert Sessions(lambda count: count, most, Machine(idle, own), Reading(0.0, 0.0, 0.0)).threads == expected


def test_a_moment_is_too_short_to_find_the_machine_busy():
    assert Sessions(lambda count: count, 2, Machine(0.0), Reading(0.99, 0.0, 0.0)).threads == 2


def test_a_number_that_was_named_stays():
    assert settled(Sessions(lambda count: count, 2)) == 2


def test_a_session_that_cannot_be_opened_leaves_the_one_there_is():
    def open_with(count):
        if count == 1:
            raise OSError("no memory")
        return count

    sessions = Sessions(open_with, 2, Machine(0.0))
    assert settled(sessions) == 2
    assert sessions.session() == 2


def test_closing_waits_for_a_session_that_is_being_opened():
    may_open, opened = threading.Event(), []

    def open_with(count):
        if count == 1:
            may_open.wait(30)
        opened.append(count)

    machine = Machine(0.0)
    sessions = Sessions(open_with, 2, machine)
    sessions.session()
    sessions._next = 0.0
    sessions.session()
    threading.Timer(0.05, may_open.set).start()
    sessions.close()
    assert opened == [2, 1]
    sessions._next, reading = 0.0, machine.reading
    sessions.session()
    assert machine.reading is reading


@pytest.mark.parametrize("name", ["int4", "fp32", "trained"])
def test_another_number_of_threads_in_mid_answer_changes_no_bit(name, tiny):
    folder = embedded_model() if name == "trained" else getattr(tiny, name)
    ids = [5 + (7 * i) % 900 for i in range(70)]
    models = {threads: EdgeModel(folder, threads=threads) for threads in (1, 2, 3)}
    sequences = {threads: model.sequence(100) for threads, model in models.items()}
    changing = models[1].sequence(100)
    for step, piece in enumerate([ids, *([token] for token in range(5, 25))]):
        expected = sequences[1].append(piece).copy()
        changing._sessions = models[1 + step % 3].sessions
        for logits in (sequences[2].append(piece), sequences[3].append(piece), changing.append(piece)):
            np.testing.assert_array_equal(logits, expected)
    for ours, theirs in zip(changing.buffers, sequences[3].buffers, strict=True):
        np.testing.assert_array_equal(ours[:, :, : changing.length], theirs[:, :, : changing.length])
