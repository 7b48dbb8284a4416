"""Runs the command lines of the pages as a shell would: in a folder of their own, with what they read and write."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hybrid_llm import HybridLLM
from hybrid_llm.cli import serve
from hybrid_llm.cli.main import main
from hybrid_llm.policies import builtin_policy
from tests.e2e.documents import ROOT
from tests.gateway.conftest import fakes, served

LIMIT_S = 120.0
ELSEWHERE = {
    "node.example:7443": "127.0.0.1:{port}",
    "/srv/models": "models",
    "--requests 10000": "--requests 50",
    "MODEL_DIR": "examples/models/hybrid-demo-node",
    "--model MODEL ": "--model examples/models/hybrid-demo-node ",
    "examples/": f"{ROOT}/examples/",
}
"""What the pages name and this machine need not have -> what stands for it here."""


@dataclass
class Runner:
    """Runs commands one after the other in a copy of *source*; a node listens at *port*."""

    source: Path
    work: Path
    port: int
    serve: bool = True
    """Whether a node is started; without it the options are parsed only, as the pages differ in names of folders."""

    def __post_init__(self) -> None:
        self.folder = Path(shutil.copytree(self.source, self.work / "pages"))

    def run(self, command: str) -> tuple[int, str]:
        """The exit code of *command*, and what it wrote."""
        words, reads, writes = self._parsed(command)
        if words[0] == "make":
            return self._finished(["make", "--dry-run", "-C", str(ROOT), *words[1:]])
        if words[0] == "pip":
            return _extras_exist(words), "an extra that does not exist"
        if words[0] == "python":
            return self._finished([sys.executable, *words[1:]])
        if words[0] == "curl":
            return self._asked(words)
        if words[1] == "serve":
            return self._served(words[1:])
        if "--follow" in words:
            return self._followed(words[1:], self.folder / (writes or "out"))
        if words[1:3] == ["certs", "init"]:
            shutil.rmtree(self.folder / words[3])  # it never overwrites an authority
        return self._called(words[1:], reads, writes)

    def _asked(self, words: list[str]) -> tuple[int, str]:
        """Run curl against a gateway that stands for the one at the page's address."""
        edge, cloud = fakes()
        policy = builtin_policy("balanced", backends={edge.name: edge.location, cloud.name: cloud.location})
        with served(HybridLLM([edge, cloud], policy)) as url:
            here = [word.replace("http://127.0.0.1:8080", url) for word in words]
            return self._finished([*here, "--silent", "--show-error", "--fail-with-body"])

    def _parsed(self, command: str) -> tuple[list[str], str | None, str | None]:
        """The arguments of *command*, the file it reads and the file it writes."""
        for name, here in ELSEWHERE.items():
            command = command.replace(name, here.format(port=self.port))
        if "policy simulate" in command and not re.search(r"--requests|--trace|--show-world", command):
            command = command.replace("policy simulate", "policy simulate --requests 50", 1)  # not 10,000
        files = dict(re.findall(r" ([<>]) (\S+)", command))
        words = shlex.split(re.sub(r" [<>] \S+|&$", "", command))
        words = [name for word in words for name in (self._matches(word) if "*" in word else [word])]
        return words, files.get("<"), files.get(">")

    def _matches(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(pattern))

    def _called(self, words: list[str], reads: str | None, writes: str | None) -> tuple[int, str]:
        """Run a command line in this process, which has imported what it needs; a chat gets one message."""
        out, stdin = io.StringIO(), sys.stdin
        typed = (self.folder / reads).read_bytes() if reads else b"Hello\n/why\n"
        sys.stdin = io.TextIOWrapper(io.BytesIO(typed))
        try:
            with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                code = main(words)
        finally:
            sys.stdin = stdin
        if writes:
            (self.folder / writes).write_text(out.getvalue())
        return int(code), out.getvalue()

    def _finished(self, words: list[str]) -> tuple[int, str]:
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.returncode, done.stdout + done.stderr

    def _served(self, words: list[str]) -> tuple[int, str]:
        """Run a node until it is ready, then stop it; the port is a free one."""
        if not self.serve:
            serve.SERVE.options(parser := argparse.ArgumentParser())
            parser.parse_args(words[1:])
            return 0, "parsed"
        ready = self.folder / "ready"
        words[words.index("--listen") + 1] = "127.0.0.1:0"
        return self._until(ready.exists, [*words, "--ready-file", str(ready)], self.folder / "log", signal.SIGTERM)

    def _followed(self, words: list[str], out: Path) -> tuple[int, str]:
        """Run what never ends until it has written something, then interrupt it."""
        return self._until(lambda: out.exists() and out.stat().st_size > 0, words, out, signal.SIGINT)

    def _until(self, true: Callable[[], bool], words: list[str], out: Path, stop: signal.Signals) -> tuple[int, str]:
        words = [sys.executable, "-m", "hybrid_llm.cli.main", *words]
        with out.open("wb") as sink, subprocess.Popen(words, cwd=self.folder, stdout=sink) as process:
            try:
                end = time.monotonic() + LIMIT_S
                while not true() and process.poll() is None and time.monotonic() < end:
                    time.sleep(0.05)
                process.send_signal(stop)
                return process.wait(LIMIT_S), out.read_text()
            finally:
                process.kill()


def _extras_exist(words: list[str]) -> int:
    """`pip install` needs the network: what is checked is that the extras it names exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = {name for found in re.findall(r"\[(.*?)\]", " ".join(words)) for name in found.split(",")}
    return int(not named <= set(project["optional-dependencies"]))
