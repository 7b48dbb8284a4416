"""schemathesis over the document that the gateway publishes: no server error, and answers as it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="make clients")
CONFIG = Path(__file__).with_name("schemathesis.toml")


def test_requests_that_the_document_allows_and_forbids_are_answered_as_it_says(base_url: str, tmp_path: Path) -> None:
    run = [
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(CONFIG),
        "run",
        base_url.removesuffix("/v1") + "/openapi.json",
    ]
    options = ["--checks", "all", "--phases", "coverage,fuzzing", "--max-examples", "8", "--seed", "1", "--no-color"]
    done = subprocess.run(
        [sys.executable, *run, *options], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    cases = re.search(r"(\d+) generated", done.stdout)
    assert done.returncode == 0, done.stdout
    assert cases is not None
    assert int(cases[1]) > 1000
