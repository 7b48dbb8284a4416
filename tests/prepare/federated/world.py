"""Three hospitals and a server on this machine: a tiny encoder, certificates, data with planted values, processes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hybrid_llm.backends.wire import issue, make_authority
from hybrid_llm.prepare.data.folder import DataFormat
from tests.prepare.privacy import tiny

CLIENTS = ("hospital-a", "hospital-b", "hospital-c")
PLANTED = "bab dod kik lul"
"""Words that stand in every record of every client."""


@dataclass(frozen=True, slots=True)
class World:
    """Folders of all parties under *root*."""

    root: Path

    @classmethod
    def make(cls, root: Path, records: int = 60) -> World:
        """Make models, certificates and data."""
        tiny.encoder(root / "base")
        make_authority(root / "tls")
        issue(root / "tls", "server", kind="node", hosts=["127.0.0.1"])
        for number, name in enumerate(CLIENTS):
            issue(root / "tls", name)
            rows = tiny.labelled(records, number, meaning=True)
            for row in rows:
                row["text"] += f" {PLANTED}"
            tiny.data(root / name, DataFormat.LABELLED, train=rows)
        tiny.data(root / "held-out", DataFormat.LABELLED, test=tiny.labelled(100, 9, meaning=True))
        return cls(root)

    def start(self, kind: str, out: str, *options: str) -> subprocess.Popen[str]:
        """Start a step as a process of its own."""
        command = [sys.executable, "-m", "hybrid_llm.cli.main", "models", kind, "--out", str(self.root / out), *options]
        log = (self.root / f"{out}.log").open("w")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)

    def serve(self, port: int, *options: str) -> subprocess.Popen[str]:
        """Start the server."""
        common = ["--model", str(self.root / "base"), "--labels", *tiny.LABELS, "--tls", str(self.root / "tls")]
        more = ["--certificate", "server", "--address", f"127.0.0.1:{port}", "--held-out", str(self.root / "held-out")]
        return self.start("federate", "common", *common, *more, *options)

    def join(self, name: str, port: int, *options: str) -> subprocess.Popen[str]:
        """Start a client."""
        files = ["--model", str(self.root / "base"), "--data", str(self.root / name), "--tls", str(self.root / "tls")]
        return self.start(
            "join", f"{name}-log", *files, "--certificate", name, "--server", f"127.0.0.1:{port}", *options
        )

    def log(self, out: str) -> str:
        """What the process wrote."""
        return (self.root / f"{out}.log").read_text()
