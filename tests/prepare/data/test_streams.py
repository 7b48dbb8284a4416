"""Cleaning; and data of any size: bounded memory, a disk that fills, and a process that is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hybrid_llm.prepare.data.folder import DATA_NAME

if TYPE_CHECKING:
    from tests.prepare.data.conftest import Preparer

RUN = """
import resource, sys
from pathlib import Path
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.data.step import PrepareData
from hybrid_llm.prepare.step import Input, Work
source, out, scratch, most = *map(Path, sys.argv[1:4]), int(sys.argv[4])
out.mkdir(exist_ok=True)
if most:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
def progress(what, share):
    print(what, f"{share:.2f}", flush=True)
try:
    PrepareData(sources=(Input(str(source)),), splits={"all": 1.0}, private="keep").run(
        Work(out=out, scratch=scratch, progress=progress))
except ConfigError as error:
    print("ConfigError:", error)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def start(prepare: Preparer, source: Path, most: int = 0) -> subprocess.Popen[str]:
    arguments = [str(source), str(prepare.root / "out"), str(prepare.root / "scratch"), str(most)]
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def large(prepare: Preparer, name: str, megabytes: int) -> Path:
    """Text of lines of about 1 KB, none of them a duplicate."""
    draw = random.Random(megabytes)
    words = [f"word{number:04}" for number in range(5000)]
    lines = (" ".join(draw.choices(words, k=110)) for _ in range(megabytes * 1000))
    return prepare.write(name, "\n".join(lines))


def test_texts_are_mended_and_keep_what_people_write(prepare: Preparer) -> None:
    source = prepare.write("a.txt", "The caf\u00c3\u00a9 &amp; bar\nAme\u0301lie\u2019s “plan”\n全角，标点\n")
    found = {record["text"] for record in prepare.records(source)}
    assert found == {"The café & bar", "Amélie\u2019s “plan”", "全角，标点"}


def test_records_are_filtered_by_length_and_language(prepare: Preparer) -> None:
    pytest.importorskip("py3langid")
    english = "This sentence is certainly written in the English language."
    german = "Dieser Satz ist ganz sicher in deutscher Sprache geschrieben."
    source = prepare.write("a.txt", f"{english}\n{german}\nshort\n{'long ' * 100}\n")
    folder = prepare.run(source, min_chars=10, max_chars=200, languages=("en",))
    assert [record["text"] for record in folder.records("all")] == [english]
    assert folder.card.figures["clean"]["dropped"] == {"language": 1, "too_long": 1, "too_short": 1}


def test_memory_does_not_grow_with_the_data(prepare: Preparer) -> None:
    peaks = []
    for megabytes in (1, 8):
        running = start(prepare, large(prepare, f"{megabytes}.txt", megabytes))
        output, _ = running.communicate()
        assert running.returncode == 0
        peaks.append(int(output.split()[-1]) // 1024)
        assert (prepare.root / "out" / "all.jsonl").stat().st_size > megabytes * 1000 * 850
    assert peaks[1] - peaks[0] < 20


def test_a_full_disk_is_an_error_that_says_so_and_leaves_no_spool(prepare: Preparer) -> None:
    running = start(prepare, large(prepare, "a.txt", 2), most=500_000)
    output, _ = running.communicate()
    assert "ConfigError: the data cannot be written" in output
    assert "make room" in output
    assert not any((prepare.root / "scratch").iterdir())
    assert not (prepare.root / "out" / DATA_NAME).exists()


def test_a_run_after_a_kill_begins_again(prepare: Preparer) -> None:
    source = large(prepare, "a.txt", 4)
    running = start(prepare, source)
    assert running.stdout is not None
    running.stdout.readline()
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert any((prepare.root / "scratch").iterdir())
    assert prepare.run(source, private="keep", duplicates="exact").card.splits == {"all": 4000}


def test_the_spool_can_be_read_by_its_owner_only(prepare: Preparer) -> None:
    source = large(prepare, "a.txt", 4)
    running = start(prepare, source)
    assert running.stdout is not None
    running.stdout.readline()
    running.send_signal(signal.SIGSTOP)
    modes = {path.stat().st_mode & 0o077 for path in (prepare.root / "scratch").iterdir()}
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert modes == {0}
