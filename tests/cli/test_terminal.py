"""What a person at a real terminal sees: the prompt, an answer, a sign of life while waiting, and Ctrl-C."""

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest


class Terminal:
    """A command on a pseudo-terminal of its own, so that Ctrl-C is a key."""

    def __init__(self, command, *arguments):
        self._pid, self._screen = pty.fork()
        if not self._pid:
            os.environ["TERM"] = "dumb"
            os.execv(command, [command, *map(str, arguments)])
        self.shown = ""
        self.code = None

    def wait_for(self, text, seconds=20):
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            if not self._read():
                break
        assert text in self.shown, self.shown

    def _read(self):
        if not select.select([self._screen], [], [], 0.1)[0]:
            return True
        try:
            piece = os.read(self._screen, 4096)
        except OSError:
            return False
        self.shown += piece.decode()
        return bool(piece)

    def type(self, text):
        self.shown = ""
        os.write(self._screen, text.encode())

    def wait_until_it_reads(self, seconds=20):
        """Ctrl-C between the prompt and the reading is noticed by Python with the next key only; people are slower."""
        until, quiet = time.monotonic() + seconds, 0
        while quiet < 5 and time.monotonic() < until:
            state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]
            quiet = quiet + 1 if state == "S" else 0
            time.sleep(0.05)

    def end(self, seconds=20):
        until = time.monotonic() + seconds
        while self._read() and time.monotonic() < until:
            pass
        self.code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self.code

    def kill(self):
        if self.code is None:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._screen)


@pytest.fixture
def terminal(command):
    opened = []

    def run(*arguments):
        opened.append(Terminal(command, *arguments))
        return opened[-1]

    yield run
    for one in opened:
        one.kill()


def test_a_conversation_prompts_answers_and_ends_with_ctrl_d(terminal):
    screen = terminal("chat")
    screen.wait_for("> ")
    screen.type("What is 1 + 1?\n")
    screen.wait_for("\r\n> ")
    assert "1" in screen.shown.split("\r\n")[1]
    screen.wait_until_it_reads()
    screen.type("\x03")
    screen.wait_for("Ctrl-C again")
    screen.type("\x04")
    assert screen.end() == 0


def test_a_slow_answer_shows_that_it_is_awaited_and_ctrl_c_stops_it(terminal, configure, node):
    node.engine.delay = 2.5
    screen = terminal("generate", "tick", "--config", configure(node.port))
    screen.wait_for("waiting for cloud: loading or reading the prompt ")
    screen.type("\x03")
    assert screen.end() == 130
    assert screen.shown.endswith("\r\x1b[K"), "the line stayed"
    assert "Traceback" not in screen.shown
    assert node.engine.left.wait(5)


def test_standard_output_that_is_closed_is_no_traceback(command):
    done = subprocess.run(
        f"{command} certs inspect absent.pem >&-", shell=True, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
