"""Run every benchmark, one after the other: `python -m benchmarks [NAME ...]`. Each prints its own table."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the named ones, or all; returns how many failed."""
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("[a-z]*.py"))
    failed = 0
    for name in names:
        print(f"\n=== {name}", flush=True)
        began = time.monotonic()
        failed += bool(
            subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False, cwd=HERE.parent).returncode
        )
        print(f"({time.monotonic() - began:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
