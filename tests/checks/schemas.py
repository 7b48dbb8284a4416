"""Holds the schemas for editors to the code: `python tests/checks/schemas.py [--write]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hybrid_llm.lab.casefile import cases_schema
from hybrid_llm.policies.document import policy_schema
from hybrid_llm.router.config import config_schema

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCHEMAS = {
    "hybrid.schema.json": config_schema,
    "policy.schema.json": policy_schema,
    "policy.cases.schema.json": cases_schema,
}


def fresh() -> dict[Path, str]:
    """What each checked-in schema must be."""
    return {DOCS / name: json.dumps(schema(), indent=2) + "\n" for name, schema in SCHEMAS.items()}


def stale() -> list[Path]:
    """The checked-in schemas that are missing or differ from what the code says."""
    return [path for path, text in fresh().items() if not path.is_file() or path.read_text("utf-8") != text]


def main(arguments: list[str]) -> int:
    """Compare, or with `--write` bring up to date; the exit code is 1 when something is stale."""
    if arguments == ["--write"]:
        for path, text in fresh().items():
            path.write_text(text, encoding="utf-8")
    found = stale()
    print(*(f"stale: {path}; run `make schemas`" for path in found), sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
