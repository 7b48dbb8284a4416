"""Holds the code to its budget: `python tests/checks/size_budget.py`. It measures; taste is left to people.

Every function has at most 40 lines and every module at most 400; the median function has at most 8.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("hybrid_llm", "router", "policies", "backends", "benchmarks", "examples")
MODULE_LINES, FUNCTION_LINES, MEDIAN_LINES = 400, 40, 8


def sources() -> Iterator[Path]:
    """Every file of ours; a link leads to a room that is listed itself, and generated code is nobody's style."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.resolve() == path and "_pb2" not in path.name:
                yield path


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, line and length in lines of each function, its docstring not counted."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def main() -> int:
    """Print what is over the budget, and how much there is in all."""
    faults: list[str] = []
    lengths: list[int] = []
    total = 0
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        total += lines
        if lines > MODULE_LINES:
            faults.append(f"{path.relative_to(ROOT)}: {lines} lines; a module has at most {MODULE_LINES}")
        for name, line, length in functions(path):
            lengths.append(length)
            if length > FUNCTION_LINES:
                where = f"{path.relative_to(ROOT)}:{line}"
                faults.append(f"{where}: {name} has {length} lines; a function has at most {FUNCTION_LINES}")
    median = statistics.median(lengths)
    if median > MEDIAN_LINES:
        faults.append(f"the median function has {median} lines; at most {MEDIAN_LINES}")
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{total} lines, {len(lengths)} functions, median {median:g}, longest {max(lengths)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
