"""Plants each fault in a copy of the policy package and runs the properties against it; all must be noticed.

    python -m tests.policies.mutants [--examples N] [--only TEXT] [--jobs N]

Exit status: 0 all were noticed, 1 one was not, 2 a fault could not be planted or the package fails without one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.policies.mutants.mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[3]
TESTS = ("test_properties.py", "conftest.py")


def build(folder: Path) -> Path:
    """A copy of the package in *folder*: the policies copied, everything else linked; the path of the policies."""
    package = folder / "hybrid_llm"
    package.mkdir()
    for item in (ROOT / "hybrid_llm").iterdir():
        if item.name not in {"policies", "__pycache__"}:
            (package / item.name).symlink_to(item.resolve())
    shutil.copytree(ROOT / "policies", package / "policies", ignore=shutil.ignore_patterns("__pycache__"))
    for name in TESTS:
        shutil.copy(ROOT / "tests" / "policies" / name, folder / name)
    return package / "policies"


def plant(policies: Path, mutant: Mutant) -> None:
    """Change the text; exactly one place must match.

    Raises:
        LookupError: none or several do: the list is out of date.
    """
    path = policies / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        raise LookupError(f"{mutant.what}: {mutant.file} holds the text {text.count(mutant.old)} times")
    path.write_text(text.replace(mutant.old, mutant.new), "utf-8")


def passes(mutant: Mutant | None, examples: int) -> bool:
    """Do the properties pass with *mutant* planted?"""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policies = build(folder)
        if mutant is not None:
            plant(policies, mutant)
        environment = {**os.environ, "HYBRID_LLM_EXAMPLES": str(examples), "PYTHONPATH": str(folder)}
        environment["HYBRID_LLM_NO_SHRINK"] = "1"
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
        done = subprocess.run(
            [*command, "--rootdir", str(folder), str(folder / "test_properties.py")],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in {0, 1, 2}:
            raise LookupError(f"pytest ended with {done.returncode}: {done.stdout[-400:]}{done.stderr[-400:]}")
        return done.returncode == 0


def survives(mutant: Mutant, examples: int) -> bool:
    """Do the properties miss *mutant*? Tells it as soon as it is known."""
    alive = passes(mutant, examples)
    print(f"{'SURVIVED' if alive else 'noticed '}  {mutant.file:12} {mutant.what}", flush=True)
    return alive


def main(arguments: list[str] | None = None) -> int:
    """Run the whole list, or the part that *--only* names."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.policies.mutants", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--examples", type=int, default=150, help="examples per property (default: 150)")
    parser.add_argument("--only", default="", help="plant only faults whose description holds this text")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    options = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.what]
    try:
        if not passes(None, 20):
            print("the package fails its properties without any fault planted")
            return 2
        with ThreadPoolExecutor(options.jobs) as pool:
            survived = list(pool.map(lambda mutant: survives(mutant, options.examples), chosen))
    except LookupError as error:
        print(error)
        return 2
    print(f"{len(chosen) - sum(survived)} of {len(chosen)} faults were noticed")
    return 1 if any(survived) or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
