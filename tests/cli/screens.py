"""A terminal for the tests: a pseudo-terminal with a command on it, what it shows, and keys to type."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from pathlib import Path


class Terminal:
    """A command on a pseudo-terminal of its own, so that Ctrl-C is a key."""

    def __init__(self, command, *arguments, columns=80, rows=24, **environment):
        self._pid, self._screen = pty.fork()
        if not self._pid:
            os.environ.update({"TERM": "dumb", **environment})
            os.execv(command, [command, *map(str, arguments)])
        self.resize(columns, rows)
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
        self.shown += piece.decode(errors="replace")
        return bool(piece)

    def resize(self, columns, rows):
        fcntl.ioctl(self._screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, number):
        os.kill(self._pid, number)

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
        while time.monotonic() < until:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                return self.code
            time.sleep(0.02)
        raise AssertionError(f"it has not ended; last shown: {self.shown[-200:]!r}")

    def kill(self):
        if self.code is None:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
        os.close(self._screen)
