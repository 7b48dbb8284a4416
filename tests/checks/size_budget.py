"""Hold the code to its size: `python tests/checks/size_budget.py`. It measures; taste is left to people.

A module or a function that is too long fails, and so does a bar of the whole product in `BARS`.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("hybrid_llm", "router", "policies", "backends", "protos")
OTHERS = ("benchmarks", "examples")
LARGE = ("backends/node", "backends/models", "hybrid_llm/cli", "hybrid_llm/lab", "hybrid_llm/prepare")
"""Left out of the bar of the core product."""
MODULE_LINES, FUNCTION_LINES = 400, 40
BARS = {
    "product, lines": 114_100,
    "product without node, model tools, command line, lab and preparation, lines": 62_000,
    "product, modules": 810,
    "median function, lines": 8,
    "largest import cycle, modules": 2,
    "rooms in an import cycle": 0,
}

Graph = Mapping[str, Iterable[str]]


@dataclass(frozen=True, slots=True)
class Module:
    """One file: its path from the root, its lines, and each function with its line and its length in lines."""

    path: str
    lines: int
    functions: tuple[tuple[str, int, int], ...]

    @classmethod
    def read(cls, path: Path) -> Module:
        text = path.read_text(encoding="utf-8")
        return cls(path.relative_to(ROOT).as_posix(), len(text.splitlines()), tuple(_functions(text)))

    @property
    def room(self) -> str:
        """`hybrid_llm/core`, `router/execution`, or the folder alone for a module right in it."""
        return "/".join(self.path.split("/")[:-1][:2])


def modules(folders: Iterable[str]) -> list[Module]:
    """Every file of ours; a link leads to a room that is listed itself, and generated code is nobody's style."""
    return [
        Module.read(path)
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.resolve() == path and "_pb2" not in path.name
    ]


def _functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Docstrings are not counted."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1 - _docstring_lines(node)


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return (first.end_lineno or first.lineno) - first.lineno + 1
    return 0


def too_long(module: Module) -> Iterator[str]:
    """What in *module* is over its limit, a line each."""
    if module.lines > MODULE_LINES:
        yield f"{module.path}: {module.lines} lines; a module has at most {MODULE_LINES}"
    for name, line, length in module.functions:
        if length > FUNCTION_LINES:
            yield f"{module.path}:{line}: {name} has {length} lines; a function has at most {FUNCTION_LINES}"


def imports() -> dict[str, set[str]]:
    """Who imports whom among our modules, imports for types only and inside functions included."""
    graph = grimp.build_graph("hybrid_llm", cache_dir=None)
    return {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def between_rooms(graph: Graph, levels: int) -> dict[str, set[str]]:
    """The same graph of rooms: at 1 level `router`, at 2 `router.execution`, and a module right in `router` alone."""
    rooms: dict[str, set[str]] = {}
    for name, imported in graph.items():
        rooms.setdefault(_room(name, levels), set()).update(_room(other, levels) for other in imported)
    return rooms


def _room(name: str, levels: int) -> str:
    return ".".join(name.split(".")[1 : levels + 1])


def cycles(graph: Graph) -> list[list[str]]:
    """Sets of two or more that all reach each other, the largest first."""
    reached = {name: _reachable(name, graph) for name in graph}
    found = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted((sorted(cycle) for cycle in found if len(cycle) > 1), key=len, reverse=True)


def _reachable(name: str, graph: Graph) -> set[str]:
    seen: set[str] = set()
    left = [name]
    while left:
        for other in graph.get(left.pop(), ()):
            if other not in seen:
                seen.add(other)
                left.append(other)
    return seen


def table(product: list[Module]) -> Iterator[str]:
    """Lines and modules of each room."""
    for room in sorted({module.room for module in product}):
        inside = [module for module in product if module.room == room]
        lengths = [length for module in inside for _, _, length in module.functions] or [0]
        longest = max(module.lines for module in inside)
        yield (
            f"{room:30} {len(inside):4} modules {sum(m.lines for m in inside):7} lines, longest {longest:4}"
            f" {len(lengths):6} functions, median {statistics.median(lengths):4g}"
        )


def main() -> int:
    """Print the table, what is over the budget, and how much there is in all."""
    product = modules(ROOMS)
    graph = imports()
    module_cycles = cycles(graph)
    room_cycles = [*cycles(between_rooms(graph, 1)), *cycles(between_rooms(graph, 2))]
    lengths = [length for module in product for _, _, length in module.functions]
    measured = {
        "product, lines": sum(module.lines for module in product),
        "product without node, model tools, command line, lab and preparation, lines": sum(
            module.lines for module in product if not module.path.startswith(tuple(f"{room}/" for room in LARGE))
        ),
        "product, modules": len(product),
        "median function, lines": statistics.median(lengths),
        "largest import cycle, modules": max(map(len, module_cycles), default=1),
        "rooms in an import cycle": sum(map(len, room_cycles)),
    }
    print(*table(product), "", sep="\n")
    print(*(f"import cycle: {' <-> '.join(cycle)}" for cycle in [*module_cycles, *room_cycles]), sep="\n")
    faults = [line for module in [*product, *modules(OTHERS)] for line in too_long(module)]
    for name, bar in BARS.items():
        over = measured[name] > bar
        print(f"{name:64} {measured[name]:7g} at most {bar:6}{'  OVER' if over else ''}")
        if over:
            faults.append(f"{name}: {measured[name]:g}; at most {bar}")
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
