"""The progress line: on a terminal one line that goes away, elsewhere nothing but phases."""

import io
import time

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.cli.terminal import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_off_a_terminal_a_phase_is_a_plain_line_and_a_bar_is_nothing():
    stream = io.StringIO()
    with Progress("loading", stream=stream) as progress:
        progress.phase("weights")
        progress.update(1, 2)
    assert stream.getvalue() == "loading: weights\n"


def test_on_a_terminal_the_line_is_taken_away_at_the_end():
    stream = Terminal()
    with Progress("loading", stream=stream) as progress:
        progress.phase("weights")
        progress.update(2, 2, "MB")
    assert "100% 2/2 MB" in stream.getvalue()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_the_line_ticks_while_its_caller_is_busy_and_not_after_it_was_taken_away():
    stream = Terminal()
    with Progress("converting", stream=stream) as progress:
        progress.update(0.5, 1.0)
        time.sleep(1.2)
        drawn = stream.getvalue().count("50%")
        progress.clear()
        time.sleep(0.7)
        assert stream.getvalue().count("50%") == drawn > 1


@given(done=st.floats(0, 1e12), total=st.floats(0, 1e12))
def test_any_progress_fits_on_one_line(done, total):
    stream = Terminal()
    Progress("x" * 300, stream=stream).update(done, total)
    assert "\n" not in stream.getvalue()
