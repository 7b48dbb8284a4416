"""Shared by all benchmarks: options, the heading that names commit and machine, the file of figures."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LITELLM = ROOT / ".venv-litellm" / "bin" / "python"
"""The Python of an environment with LiteLLM; `make bench` makes it."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the docstring *doc*, with the option that every benchmark has."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--smoke", action="store_true", help="the smallest sizes: shows that it runs, not how fast")
    return made


def with_json(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add `--json FILE`, for `write`."""
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return made


def parsed(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; prints what is about to be measured: commit, date, machine."""
    options = made.parse_args()
    announce(options)
    return options


def announce(options: argparse.Namespace) -> None:
    """Print what is about to be measured."""
    size = ["smallest sizes: the figures mean nothing"] if options.smoke else []
    print(", ".join([*stamp().values(), *size]), flush=True)


def stamp() -> dict[str, str]:
    """The commit and whether files differ from it, the date, Python, and the processors."""
    return {
        "commit": f"commit {_git('rev-parse', '--short=9', 'HEAD') or 'unknown'}"
        + (" with changes" if _git("status", "--porcelain", "--untracked-files=no") else ""),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "python": f"Python {platform.python_version()}",
        "processors": f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}",
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def write(path: Path | None, figures: Mapping[str, object]) -> None:
    """Write *figures* with their commit and date, where a file was named."""
    if path is not None:
        path.write_text(json.dumps({**stamp(), **figures}, indent=2) + "\n", encoding="utf-8")
