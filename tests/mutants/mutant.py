"""A planted fault, anchored to names: the module and the function that it changes, and what it does there."""

from __future__ import annotations

import ast
import builtins
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mutants.changes import Change

ROOT = Path(__file__).resolve().parents[2]


class Unplantable(LookupError):
    """The list is out of date: a module, a name or the code to change is gone, or there are several such places."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """*what* happens when *change* is made at *target*: `module:Class.method`, `module:CONSTANT` or `module:`."""

    what: str
    target: str
    change: Change

    @property
    def room(self) -> str:
        """The part of `hybrid_llm` that holds the module, as `router`."""
        return self.target.split(":")[0].split(".")[1]

    @property
    def file(self) -> Path:
        """The file of the module, relative to the folder that holds `hybrid_llm`."""
        return Path(*self.target.split(":")[0].split(".")).with_suffix(".py")

    def planted(self) -> ast.Module:
        """The module with the fault in it.

        Raises:
            Unplantable: with the name that is gone, or how many places matched.
        """
        return self.planted_at()[0]

    def planted_at(self) -> tuple[ast.Module, ast.AST]:
        """As `planted`, and the part of the module that the target names, which alone differs."""
        path = ROOT / self.file
        if not path.is_file():
            raise self._gone(f"there is no {self.file}")
        text = path.read_text("utf-8")
        tree = ast.parse(text)
        scope, known = self._scope(tree), _known(text)
        before = ast.dump(scope)
        count = self.change.apply(scope)
        if count != 1:
            raise self._gone(f"found {count} times, not once: {self.change.words}")
        if ast.dump(scope) == before:
            raise self._gone(f"changes nothing: {self.change.words}")
        if unknown := {node.id for node in _free(scope)} - known:
            raise self._gone(f"the module has no {sorted(unknown)}: {self.change.words}")
        return tree, ast.fix_missing_locations(scope)

    def _scope(self, tree: ast.Module) -> ast.AST:
        scope: ast.AST = tree
        for name in filter(None, self.target.split(":")[1].split(".")):
            named = dict(_names(scope))
            if name not in named:
                near = difflib.get_close_matches(name, named, n=1)
                raise self._gone(f"{name} is gone" + (f"; is it {near[0]} now?" if near else ""))
            scope = named[name]
        return scope

    def _gone(self, why: str) -> Unplantable:
        return Unplantable(f"{self.what}: {self.target}: {why}")


def _names(scope: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The functions, classes and assigned names right inside *scope*, also in blocks such as `if` and `with`."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
            continue
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node
        if isinstance(node, ast.stmt):
            yield from _names(node)


@cache
def _known(text: str) -> frozenset[str]:
    """The names that the module *text* may use: many faults are planted in the same one."""
    return frozenset({*_mentioned(ast.parse(text)), *dir(builtins)})


def _mentioned(tree: ast.Module) -> Iterator[str]:
    """Every name in the module, whether it is given a value, imported, a parameter or only read."""
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=name) | ast.arg(arg=name) | ast.alias(name=name, asname=None) | ast.alias(asname=str(name))
            ):
                yield name


def _free(scope: ast.AST) -> Iterator[ast.Name]:
    """The names in *scope* that it does not give a value itself."""
    names = [node for node in ast.walk(scope) if isinstance(node, ast.Name)]
    given = {name.id for name in names if isinstance(name.ctx, ast.Store)} | {"_"}
    given |= {node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)}
    return (name for name in names if name.id not in given)
