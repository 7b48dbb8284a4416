"""Plant each fault in a copy of the package and run the tests that must notice it.

    python -m tests.mutants [--suite NAME] [--only TEXT] [--examples N] [--jobs N]

Exit status: 0 all faults were noticed, 1 one survived, 2 a fault cannot be planted or the tests fail without one.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants import (
    credentials,
    detectors,
    endpoints,
    leaks,
    net,
    policies,
    privacy,
    pseudonyms,
    recovery,
    router,
    sending,
    verify,
)
from tests.mutants.mutant import ROOT, Mutant, Unplantable

_HANGS = 10.0
"""Tests that take so many times as long as without a fault hang, which is a way to notice it."""
_HANGS_S = 60.0
"""The least of these limits, in seconds."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A list of faults, and the tests that must notice them; paths are inside `tests`."""

    name: str
    mutants: Sequence[Mutant]
    tests: tuple[str, ...]

    def likeliest_first(self, mutant: Mutant | None) -> list[str]:
        """The tests, those that have the name of the module that *mutant* changes before the others."""
        own = "" if mutant is None else f"test_{mutant.file.name}"
        return sorted(self.tests, key=lambda test: Path(test).name != own)


def _tests(folder: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{folder}/test_{name}.py" for name in names)


SUITES = (
    Suite("credentials", credentials.MUTANTS, _tests("router", "credentials")),
    Suite("policies", policies.MUTANTS, _tests("policies", "decide", "language", "findings", "properties")),
    Suite("router", router.MUTANTS, (*_tests("router", "attempts", "recovery", "client"), *_tests("core", "health"))),
    Suite("recovery", recovery.MUTANTS, _tests("router", "recovery", "tracebacks")),
    Suite(
        "privacy",
        privacy.MUTANTS,
        _tests("router", "guard", "forms", "request_metadata", "privacy", "structured", "doubt", "leaks"),
    ),
    Suite("leaks", leaks.MUTANTS, _tests("router", "leak_kinds", "leaks")),
    Suite("sending", sending.MUTANTS, _tests("backends/wire", "outgoing")),
    Suite(
        "endpoints",
        endpoints.MUTANTS,
        (*_tests("backends/wire", "choose", "prober", "pool", "place", "no_network"), *_tests("core", "health")),
    ),
    Suite("verify", verify.MUTANTS, _tests("lab", "verify")),
    Suite("errors", net.ERRORS, _tests("router", "net", "output", "tracebacks", "error_texts")),
    Suite("schemas", net.SCHEMAS, _tests("backends", "detokenize", "schema")),
    Suite("statuses", net.STATUSES, _tests("backends/wire", "status", "net")),
    Suite("detectors", detectors.MUTANTS, _tests("router", "evidence", "labels", "detectors")),
    Suite("pseudonyms", pseudonyms.MUTANTS, _tests("router", "pseudonyms", "restore", "values")),
)


def build(folder: Path, mutant: Mutant | None) -> None:
    """A checkout in *folder*: tests and the room of *mutant* are copied, with the fault in it, the rest is linked.

    Raises:
        Unplantable: the list is out of date.
    """
    package = folder / "hybrid_llm"
    package.mkdir()
    for item in (ROOT / "hybrid_llm").iterdir():
        if mutant is not None and item.name == mutant.room:
            shutil.copytree(item.resolve(), package / item.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif item.name != "__pycache__":
            (package / item.name).symlink_to(item.resolve())
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for item in ROOT.iterdir():
        if not item.name.startswith(".") and not (folder / item.name).exists():
            inside = package / item.name
            (folder / item.name).symlink_to(inside if inside.exists() else item)
    if mutant is not None:
        (folder / mutant.file).write_text(ast.unparse(mutant.planted()), "utf-8")


def passes(suite: Suite, mutant: Mutant | None, examples: int, timeout: float | None = None) -> bool:
    """Do the tests pass with *mutant* planted? Tests that take longer than *timeout* seconds do not.

    Raises:
        Unplantable: the tests fail without a fault, or do not run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, mutant)
        environment = {
            **os.environ,
            "HYBRID_LLM_EXAMPLES": str(examples),
            "HYBRID_LLM_LEAK_CLIENTS": "12",
            "PYTHONPATH": str(folder),
            "PYTHONFAULTHANDLER": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        command += ["--rootdir", str(folder), *(str(folder / "tests" / test) for test in suite.likeliest_first(mutant))]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode not in {0, 1, 2} or (mutant is None and done.returncode):
            raise Unplantable(
                f"{suite.name}: pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-400:]}"
            )
        return done.returncode == 0


def unplantable(suites: Sequence[Suite] = SUITES) -> Iterator[str]:
    """Why faults cannot be planted: one line each, none if the lists are up to date."""
    for suite in suites:
        for test in suite.tests:
            if not (ROOT / "tests" / test).is_file():
                yield f"{suite.name}: there is no tests/{test}"
        for mutant in suite.mutants:
            try:
                compile(ast.unparse(mutant.planted()), str(mutant.file), "exec")
            except (Unplantable, SyntaxError) as error:
                yield f"{suite.name}: {error}"


def run(suite: Suite, only: str, examples: int, jobs: int) -> tuple[int, int]:
    """Plant the faults of *suite* that hold *only*; returns how many there were, and how many survived."""
    chosen = [mutant for mutant in suite.mutants if only in mutant.what]
    began = time.monotonic()
    if chosen:
        passes(suite, None, examples)
    limit = max(_HANGS_S, _HANGS * (time.monotonic() - began))
    survived = 0
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda mutant: passes(suite, mutant, examples, limit), chosen)
        for mutant, alive in zip(chosen, results, strict=True):
            survived += alive
            print(
                f"{'SURVIVED' if alive else 'noticed '}  {suite.name:10} {mutant.what}  ({mutant.target})", flush=True
            )
    return len(chosen), survived


def main(arguments: list[str] | None = None) -> int:
    """Run the whole list, or the part that the options name."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", choices=[suite.name for suite in SUITES], help="only the faults of this list")
    parser.add_argument("--only", default="", help="only faults whose description contains this text")
    parser.add_argument("--examples", type=int, default=150, help="examples per property (default: 150)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    options = parser.parse_args(arguments)
    suites = [suite for suite in SUITES if options.suite in {None, suite.name}]
    if stale := list(unplantable(suites)):
        print(*stale, sep="\n")
        return 2
    try:
        counts = [run(suite, options.only, options.examples, options.jobs) for suite in suites]
    except Unplantable as error:
        print(error)
        return 2
    total, survived = (sum(column) for column in zip(*counts, strict=True))
    print(f"{total - survived} of {total} faults were noticed")
    return 1 if survived or not total else 0


if __name__ == "__main__":
    sys.exit(main())
