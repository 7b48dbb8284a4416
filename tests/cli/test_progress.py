"""The progress line: on a terminal one live line that is erased at the end, elsewhere plain lines for each phase."""

import io
import re
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.cli.terminal import Progress, console_for, table

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
SHOW_CURSOR, HIDE_CURSOR, ERASE_LINE = "\x1b[?25h", "\x1b[?25l", "\x1b[2K"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _a_terminal_of_80_columns(monkeypatch):
    for name, value in (("TERM", "xterm"), ("COLUMNS", "80"), ("LINES", "24")):
        monkeypatch.setenv(name, value)


def visible(stream):
    return CONTROLS.sub("", stream.getvalue())


def test_off_a_terminal_a_phase_is_a_plain_line_and_a_share_is_nothing(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Progress("loading", stream=stream) as progress:
        progress.phase("weights")
        progress.update(0.5)
    assert stream.getvalue() == "loading: weights\n"


def test_on_a_terminal_the_line_is_erased_at_the_end_and_the_cursor_is_there():
    stream = Terminal()
    with Progress("loading", stream=stream) as progress:
        progress.phase("weights")
        progress.update(1.0)
    assert "loading: weights" in visible(stream)
    assert "100%" in visible(stream)
    assert stream.getvalue().endswith(ERASE_LINE), "the line stayed"
    assert stream.getvalue().rindex(SHOW_CURSOR) > stream.getvalue().rindex(HIDE_CURSOR)


def test_the_cursor_is_visible_while_the_line_is_shown():
    """A process that is killed cannot show it again."""
    stream = Terminal()
    progress = Progress("loading", stream=stream)
    progress.phase("weights")
    shown = stream.getvalue()
    progress.clear()
    assert shown.rindex(SHOW_CURSOR) > shown.rindex(HIDE_CURSOR)


def test_the_line_is_refreshed_while_its_caller_is_busy_and_not_after_it_was_cleared():
    stream = Terminal()
    with Progress("converting", stream=stream) as progress:
        progress.update(0.5)
        time.sleep(1.2)
        drawn = visible(stream).count("50%")
        progress.clear()
        drawn_at_end = visible(stream).count("50%")
        time.sleep(0.7)
        assert visible(stream).count("50%") == drawn_at_end >= drawn > 1


@settings(max_examples=20, deadline=None)
@given(label=st.text(max_size=300), share=st.floats())
def test_any_progress_fits_on_one_line(label, share):
    stream = Terminal()
    progress = Progress(label, stream=stream)
    progress.update(share)
    before_the_end = visible(stream)
    progress.clear()
    assert "\n" not in before_the_end


def test_without_rich_and_on_a_dumb_terminal_the_output_is_plain(monkeypatch, capsys):
    stream = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    assert console_for(stream) is None
    monkeypatch.setenv("TERM", "xterm")
    assert console_for(stream) is not None
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert console_for(stream) is None
    with Progress("loading", stream=stream) as progress:
        progress.phase("weights")
        progress.update(1.0)
    assert stream.getvalue() == "loading: weights\n"
    monkeypatch.setattr(sys, "stdout", Terminal())
    table(("name", "n"), [("a", "1")])
    assert sys.stdout.getvalue() == "name  n\n----  -\na     1\n"


def test_a_table_aligns_numbers_and_escapes_control_characters(monkeypatch):
    stream = Terminal()
    rows = [("long name", "1"), ("[red]x\x1b[2J", "22")]
    for output in (io.StringIO(), stream):
        monkeypatch.setattr(sys, "stdout", output)
        table(("name", "number"), rows, numbers={"number"})
        lines = [line.rstrip() for line in CONTROLS.sub("", output.getvalue()).splitlines()]
        assert lines[0].split() == ["name", "number"]
        assert lines[-2].endswith(" 1")
        assert r"[red]x\x1b[2J" in lines[-1]
        assert len(lines[-1]) == len(lines[-2])


def test_a_table_on_a_narrow_terminal_fits_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr(sys, "stdout", Terminal())
    table(("name", "text"), [("a" * 20, "b" * 40)])
    assert all(len(line) <= 30 for line in CONTROLS.sub("", sys.stdout.getvalue()).splitlines())
