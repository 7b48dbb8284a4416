"""What every engine's process has: its pipe to the supervisor, and how far it has come. The standard library only."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import BinaryIO, Final

from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.liveness import PULSE_S, Pulse

_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)


class Outbox:
    """Standard output, reserved for frames: what libraries print goes to standard error. Thread-safe."""

    def __init__(self) -> None:
        self._stream: BinaryIO = os.fdopen(os.dup(1), "wb")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def send(self, message: ipc.FromEngine) -> None:
        """Write a message; ends the process if nobody reads."""
        frame = ipc.encode(message)
        try:
            with self._lock:
                self._stream.write(frame)
                self._stream.flush()
        except BrokenPipeError:
            end_group()


class Odometer:
    """How far the engine has come. The engine's thread writes it, the pulses read it."""

    def __init__(self) -> None:
        self.beats = 0
        self.busy = True

    def beat(self) -> None:
        """Count a command, a step, or a layer of the model."""
        self.beats += 1

    def report(self, outbox: Outbox) -> None:
        """Send a pulse each second, for ever."""
        while True:
            outbox.send(Pulse(self.beats, self.busy))
            time.sleep(PULSE_S)


def read_commands(take: Callable[[ipc.ToEngine], object]) -> None:
    """Call *take* with each command of standard input; ends the process when the input ends."""
    stream = os.fdopen(0, "rb", closefd=False)
    try:
        while header := stream.read(ipc.HEADER.size):
            message = ipc.decode(stream.read(ipc.HEADER.unpack(header)[0]))
            assert isinstance(message, ipc.ToEngine)
            take(message)
    finally:
        end_group()


def ignore_terminal() -> None:
    """Ignore the signals of a terminal: they reach the whole group of processes, and are the supervisor's business."""
    for name in ("SIGINT", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)


def end_group() -> None:
    """End this process at once, and all that it has started: `children.spawn` gave it a group of its own."""
    if os.name == "posix" and os.getpgid(0) == os.getpid():
        os.killpg(0, _KILL)
    os._exit(0)
