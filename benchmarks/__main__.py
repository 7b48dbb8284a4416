"""Run benchmarks, one after the other: `python -m benchmarks [NAME ...] [OPTION ...]`. Each prints its own table.

Without a name all are run. The options go to each of them; `--smoke` is known to all, `NAME --help` lists the others.
"""

from __future__ import annotations

import ast
import difflib
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def helped() -> str:
    """The docstring above, and the first line of each benchmark's."""
    lines = [(__doc__ or "").strip(), ""]
    for name in NAMES:
        doc = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8"))) or ""
        lines.append(f"  {name:16} {doc.splitlines()[0]}")
    return "\n".join(lines)


def run(name: str, options: list[str]) -> bool:
    """Run one in its own process; returns whether it passed."""
    print(f"\n=== {name}", flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], check=False, cwd=HERE.parent)
    print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return done.returncode == 0


def main(arguments: list[str]) -> int:
    """Run the named ones, or all; the exit status is 1 when one failed, 2 when there is no such benchmark."""
    names = list(takewhile(lambda argument: not argument.startswith("-"), arguments))
    options = arguments[len(names) :]
    if not names and {"-h", "--help"} & set(options):
        print(helped())
        return 0
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            print(f"there is no benchmark {name!r}" + (f"; did you mean {near[0]}?" if near else ""), file=sys.stderr)
            return 2
    failed = [name for name in names or NAMES if not run(name, options)]
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
