"""Plants each fault in a copy of its room and runs the room's tests against it; all must be noticed.

    python -m tests.mutants [--room NAME] [--only TEXT] [--examples N] [--jobs N]

Exit status: 0 all were noticed, 1 one was not, 2 a fault could not be planted or the tests fail without one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import nodes, policies, privacy, proof, pseudonyms, recovery, router, sending
from tests.mutants.mutant import Mutant

ROOT = Path(__file__).resolve().parents[2]
_HANGS_S = 900.0
"""Tests that take so long hang, which is a way to notice a fault; seconds."""


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests that must notice the faults of one room; paths are inside `tests`."""

    room: str
    mutants: Sequence[Mutant]
    tests: tuple[str, ...]
    needs: tuple[str, ...] = ()


_LEAKS = tuple(f"leaks/{path.name}" for path in sorted((ROOT / "tests" / "leaks").glob("*.py")))
SUITES = (
    Suite(
        "policies",
        policies.MUTANTS,
        tuple(f"policies/test_{name}.py" for name in ("decide", "language", "findings", "properties")),
        ("policies/conftest.py",),
    ),
    Suite(
        "router",
        router.MUTANTS,
        tuple(f"router/test_{name}.py" for name in ("attempts", "recovery", "breaker", "client")),
        ("router/conftest.py", "fakes.py"),
    ),
    Suite(
        "router",
        recovery.MUTANTS,
        ("router/test_recovery.py", "router/test_tracebacks.py"),
        ("router/conftest.py", "fakes.py"),
    ),
    Suite(
        "router",
        privacy.MUTANTS,
        tuple(f"router/test_{name}.py" for name in ("guard", "forms", "request_metadata", "privacy", "leaks")),
        ("router/conftest.py", "fakes.py", *_LEAKS),
    ),
    Suite("backends", sending.MUTANTS, ("backends/wire/test_outgoing.py",)),
    Suite(
        "backends",
        nodes.MUTANTS,
        tuple(f"backends/wire/test_{name}.py" for name in ("choose", "way", "pool", "place", "no_network")),
        (
            "fakes.py",
            "network.py",
            *(f"backends/wire/{name}.py" for name in ("conftest", "fakes", "node_process", "no_network")),
        ),
    ),
    Suite("router", proof.MUTANTS, ("lab/test_verify.py",)),
    Suite("router", pseudonyms.MUTANTS, ("router/test_pseudonyms.py", "router/test_restore.py")),
)


def build(folder: Path, suite: Suite) -> Path:
    """The package and the tests in *folder*: the room copied, the other rooms linked; returns the copied room."""
    package = folder / "hybrid_llm"
    package.mkdir()
    for item in (ROOT / "hybrid_llm").iterdir():
        if item.name not in {suite.room, "__pycache__"}:
            (package / item.name).symlink_to(item.resolve())
    shutil.copytree(ROOT / suite.room, package / suite.room)
    for name in ("conftest.py", *suite.tests, *suite.needs):
        target = folder / "tests" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, target)
    return package / suite.room


def plant(room: Path, mutant: Mutant) -> None:
    """Change the text; exactly one place must match.

    Raises:
        LookupError: none or several do: the list is out of date.
    """
    path = room / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise LookupError(f"{mutant.what}: {mutant.file} holds the text {text.count(mutant.old)} times")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")


def passes(suite: Suite, mutant: Mutant | None, examples: int) -> bool:
    """Do the tests pass with *mutant* planted?"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        room = build(folder, suite)
        if mutant is not None:
            plant(room, mutant)
        environment = {
            **os.environ,
            "HYBRID_LLM_EXAMPLES": str(examples),
            "HYBRID_LLM_LEAK_CLIENTS": "12",
            "PYTHONPATH": str(folder),
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        command += ["--rootdir", str(folder), *(str(folder / "tests" / test) for test in suite.tests)]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=_HANGS_S
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in {0, 1, 2}:
            raise LookupError(f"pytest ended with {done.returncode}: {done.stdout[-400:]}{done.stderr[-400:]}")
        return done.returncode == 0


def run(suite: Suite, only: str, examples: int, jobs: int) -> tuple[int, int]:
    """Plant the faults of *suite* that hold *only*; returns how many there were, and how many survived."""
    chosen = [mutant for mutant in suite.mutants if only in mutant.what]
    if chosen and not passes(suite, None, 20):
        raise LookupError(f"the tests of {suite.room} fail without any fault planted")
    survived = 0
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda mutant: passes(suite, mutant, examples), chosen)
        for mutant, alive in zip(chosen, results, strict=True):
            survived += alive
            print(f"{'SURVIVED' if alive else 'noticed '}  {suite.room}/{mutant.file:14} {mutant.what}", flush=True)
    return len(chosen), survived


def main(arguments: list[str] | None = None) -> int:
    """Run the whole list, or the part that the options name."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--room", choices=sorted({suite.room for suite in SUITES}), help="only the faults of this room")
    parser.add_argument("--only", default="", help="plant only faults whose description holds this text")
    parser.add_argument("--examples", type=int, default=150, help="examples per property (default: 150)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    options = parser.parse_args(arguments)
    suites = [suite for suite in SUITES if options.room in {None, suite.room}]
    try:
        counts = [run(suite, options.only, options.examples, options.jobs) for suite in suites]
    except LookupError as error:
        print(error)
        return 2
    total, survived = (sum(column) for column in zip(*counts, strict=True))
    print(f"{total - survived} of {total} faults were noticed")
    return 1 if survived or not total else 0


if __name__ == "__main__":
    sys.exit(main())
