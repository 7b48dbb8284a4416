"""A node in a process of its own, as `hybrid-llm serve` runs it, started, stopped and killed by the demonstration."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from hybrid_llm.router.errors import ConfigError

__all__ = ["NodeProcess"]

_START_S: Final = 120.0


class NodeProcess:
    """`hybrid-llm serve`; with *witness* its engine writes down there what it is given, see `cli.demo.node`."""

    def __init__(self, model: Path, tls: Path, folder: Path, *, witness: Path | None = None) -> None:
        main = ["hybrid_llm.cli.main", "serve"]
        if witness is not None:
            main = ["hybrid_llm.cli.demo.node", "--witness", str(witness)]
        self._ready, self._log = folder / "ready", folder / "node.log"
        self._command = [sys.executable, "-m", *main, "--model", str(model), "--listen", "127.0.0.1:0"]
        self._command += ["--tls", str(tls), "--name", "node", "--ready-file", str(self._ready)]
        self._witness = witness
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Begin to start; `wait` tells when it is ready."""
        self._ready.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603

    def wait(self) -> int:
        """Wait until it is ready, and return its port; ConfigError with its own words if it ends."""
        until = time.monotonic() + _START_S
        while not self._ready.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise ConfigError(f"the node did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return int(self._ready.read_text().strip().rpartition(":")[2])

    def start(self) -> int:
        """Start it, wait until it is ready, and return its port."""
        self.launch()
        return self.wait()

    @property
    def pid(self) -> int:
        """The process of the front; 0 while nothing runs."""
        return self._process.pid if self._process is not None else 0

    def witnessed(self) -> list[str]:
        """What its engine was given, one text for each request."""
        if self._witness is None or not self._witness.exists():
            return []
        return self._witness.read_text(encoding="utf-8").splitlines()

    def kill(self) -> None:
        """End it at once, as a machine ends that loses its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None
