"""Run all tests, each group in a process of its own, some at a time: `python -m tests [--lanes N] [PATH ...]`.

torch, gRPC and ONNX Runtime do not share one process well for a thousand tests, and a group that waits leaves the
processor to another. The output of a group is printed when the group ends, the closing line of each again at the end.

Tests inject real faults, and processors that other groups keep busy can make a node look dead. So up to five failed
tests of a group run once more when all groups are over, with nothing beside them. Those that pass then are named as
unstable, below what they printed at first. With `--once` they fail.

Exit status: 0 all tests passed, 1 a group failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[1]
# The longest first, so that none is left alone at the end. Tests elsewhere run together in one more group.
GROUPS = (
    ("tests/prepare/tuning", "tests/prepare/compression", "tests/prepare/privacy", "tests/prepare/test_hub_folder.py"),
    ("tests/router",),
    ("tests/e2e",),
    ("tests/chaos",),
    (
        "tests/prepare/data",
        "tests/prepare/recipe",
        "tests/prepare/evaluation",
        "tests/prepare/explain",
        "tests/prepare/creation",
    ),
    ("tests/backends/engine",),
    ("tests/backends/gguf", "tests/backends/models", "tests/backends/calls"),
    ("tests/backends/wire",),
    ("tests/benchmarks",),
    ("tests/backends/edge", "tests/backends/prepare"),
    ("tests/cli", "tests/checks", "tests/packaging"),
    ("tests/gateway", "tests/backends/openai", "tests/backends/anthropic"),
    ("tests/lab",),
    ("tests/policies",),
)
SLOWEST: Final = ("--durations=12", "--durations-min=4")
"""Each group names its slowest tests: who adds a test sees what it costs."""
_AGAIN: Final = ("--last-failed", "--last-failed-no-failures=none")
_MOST_AGAIN: Final = 5
"""Where more tests of a group fail, it is no accident."""
_LONG: Final = 4
"""So many groups take longer than the one of tests elsewhere."""
LANES = min(4, (os.cpu_count() or 1) + 1)
"""One group more than processors: much of the time of nodes, proxies and floods is waiting. Some groups take 3 GB."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one group."""

    group: tuple[str, ...]
    status: int
    output: str
    seconds: float

    def show(self) -> None:
        print(f"\n=== {' '.join(self.group)}\n{self.output.rstrip()}", flush=True)

    def summary(self) -> str:
        """The closing line of pytest, or how the process ended: -11 is a segmentation fault."""
        last = (self.output.strip().splitlines() or ["no output"])[-1]
        said = last if self.status >= 0 else f"ended by signal {-self.status}: {last}"
        return f"{'ok    ' if self.status == 0 else 'FAILED'} {self.seconds:5.0f} s  {' '.join(self.group)}: {said}"


def groups() -> list[tuple[str, ...]]:
    """The groups above, and one of all test files that none of them holds."""
    named = [ROOT / folder for group in GROUPS for folder in group]
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    rest = [path for path in files if not any(path.is_relative_to(folder) for folder in named)]
    others = tuple(path.relative_to(ROOT).as_posix() for path in rest)
    return [*GROUPS[:_LONG], others, *GROUPS[_LONG:]]


def run(caches: Path, group: tuple[str, ...], *, again: bool = False) -> Result:
    """Run pytest for *group*, or for those of its tests that failed, as *caches* has them, and print its output."""
    # Child processes inherit both: a crash leaves a traceback anywhere, even in a process that is about to exit; and
    # models are so small here, and processors so few for all groups, that more threads would only spin.
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONFAULTHANDLER": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile the same modules again
    options = ("-o", f"cache_dir={_cache(caches, group)}", *(_AGAIN if again else SLOWEST))
    command = [sys.executable, "-m", "pytest", *options, *group]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    result = Result(group, done.returncode, done.stdout, time.monotonic() - began)
    result.show()
    return result


def run_again(caches: Path, result: Result) -> tuple[Result, set[str]]:
    """Run the tests that failed in *result*, if they are few; returns what came of them, and those that passed now."""
    failed = _failed(caches, result.group) if result.status == 1 else set()
    if not 0 < len(failed) <= _MOST_AGAIN:
        return result, set()
    print("\n=== once more, with nothing beside it", flush=True)
    again = run(caches, result.group, again=True)
    return again, failed - _failed(caches, result.group)


def _failed(caches: Path, group: tuple[str, ...]) -> set[str]:
    path = _cache(caches, group) / "v" / "cache" / "lastfailed"
    return set(json.loads(path.read_text())) if path.exists() else set()


def _cache(caches: Path, group: tuple[str, ...]) -> Path:
    return caches / group[0].replace("/", ".")


def main() -> int:
    """Run the groups, or one group of the paths that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="tests to run as one group (default: all groups)")
    parser.add_argument("--once", action="store_true", help="do not run tests again that failed")
    parser.add_argument("--lanes", type=int, default=LANES, help=f"groups at a time (default: {LANES})")
    options = parser.parse_args()
    began, unstable = time.monotonic(), set[str]()
    with tempfile.TemporaryDirectory() as folder:
        caches = Path(folder)
        with ThreadPoolExecutor(options.lanes) as pool:
            results = list(pool.map(partial(run, caches), [tuple(options.paths)] if options.paths else groups()))
        for number, result in enumerate([] if options.once else results):
            results[number], passed = run_again(caches, result)
            unstable |= passed
    print("\n=== summary", *(result.summary() for result in results), sep="\n")
    for test in sorted(unstable):
        print(f"unstable: failed beside others, passed alone: {test}")
    failed = sum(result.status != 0 for result in results)
    print(f"{len(results) - failed} of {len(results)} groups passed in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
