"""The demonstration's node: `hybrid-llm serve` in a process of its own, with a witness that logs what its engine gets.

The witness sits behind TLS, gRPC, admission and the chat template, directly before the model: what it has not seen, the
model has not received.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.supervisor import EngineProcess
from hybrid_llm.cli.serve import SERVE, serve
from hybrid_llm.core.errors import ConfigError

_START_S: Final = 300.0


class NodeProcess:
    """`hybrid-llm serve` as a child process; with *witness* its engine logs its requests to that file.

    *options* are further ones of the command.
    """

    def __init__(
        self, model: Path, tls: Path, folder: Path, *, witness: Path | None = None, options: Sequence[str] = ()
    ) -> None:
        main = ["hybrid_llm.cli.main", "serve"]
        if witness is not None:
            main = ["hybrid_llm.cli.demo.node", "--witness", str(witness)]
        folder.mkdir(exist_ok=True)
        self._ready, self._log = folder / "ready", folder / "node.log"
        self._command = [sys.executable, "-m", *main, "--model", str(model), "--listen", "127.0.0.1:0"]
        self._command += ["--tls", str(tls), "--name", "node", "--ready-file", str(self._ready), *options]
        self._witness = witness
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start the process without waiting until it is ready."""
        self._ready.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603

    def wait(self) -> int:
        """Wait until it is ready, and return its port; ConfigError with its log if it exits."""
        until = time.monotonic() + _START_S
        while not self._ready.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise ConfigError(f"the node did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return int(self._ready.read_text())

    @property
    def pid(self) -> int:
        """The id of the server process; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    def witnessed(self) -> list[str]:
        """What its engine received, one JSON text per request."""
        if self._witness is None or not self._witness.exists():
            return []
        return self._witness.read_text(encoding="utf-8").splitlines()

    def kill(self) -> None:
        """Kill it, like a machine that loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Terminate it, and wait until it has exited."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=15)
        self.kill()


class WitnessedEngine(EngineProcess):
    """An engine that appends each request, decoded to text, to the file *witness*."""

    def __init__(self, config: EngineConfig, *, witness: Path, on_progress: Callable[[str], None]) -> None:
        from hybrid_llm.backends.text import ChatTokenizer

        super().__init__(config, on_progress=on_progress)
        self._witness = witness
        self._tokenizer = ChatTokenizer.load(config.model)

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Log *request*, then stream as `EngineProcess` does."""
        received = [
            self._tokenizer.tokenizer.decode(list(request.prompt_ids), skip_special_tokens=False),
            request.output_schema or "",
            request.answer_prefix,
        ]
        with self._witness.open("a", encoding="utf-8") as file:
            file.write(json.dumps(received, ensure_ascii=False) + "\n")
        return super().stream(request)


def main() -> int:
    """Serve with the options of `hybrid-llm serve` and `--witness FILE`."""
    parser = argparse.ArgumentParser()
    SERVE.options(parser)
    parser.add_argument("--witness", type=Path, required=True)
    args = parser.parse_args()
    return serve(args, partial(WitnessedEngine, witness=args.witness))


if __name__ == "__main__":
    sys.exit(main())
