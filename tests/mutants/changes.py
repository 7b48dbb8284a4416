"""What a mutant does to the code that it names. Places are found in the syntax tree, so layout and line moves are free.

A pattern is Python: an expression, or statements. In a pattern

    __        matches any expression
    __x       matches any expression, and stands for it in the replacement
    ...       as the whole body of a statement matches any body, and stands for it in the replacement
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_params"})
_BODIES = ("body", "orelse", "finalbody")
Captured = dict[str, ast.AST | list[ast.stmt]]


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a syntax tree, in place; *apply* returns how many places matched."""

    words: str
    apply: Callable[[ast.AST], int]


def swap(old: str, new: str) -> Change:
    """*old* becomes *new*; both are expressions, or both are statements."""
    if _is_expression(old) and _is_expression(new):
        return _on_expressions(f"{old}  ->  {new}", _rewrite(old, new))
    return _on_statements(f"{old}  ->  {new}", _statements(old), _statements(new))


def drop(old: str) -> Change:
    """The statements *old* are left out."""
    return _on_statements(f"drop {old}", _statements(old), [])


def always(condition: str) -> Change:
    """*condition* is true."""
    return swap(condition, "True")


def never(condition: str) -> Change:
    """*condition* is false."""
    return swap(condition, "False")


def drop_operand(operand: str) -> Change:
    """*operand* is left out of its `and` or `or`."""

    def rewrite(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.BoolOp):
            return None
        left = _without(node.values, pattern)
        if left is None:
            return None
        return left[0] if len(left) == 1 else ast.BoolOp(node.op, left)

    pattern = _expression(operand)
    return _on_expressions(f"drop operand {operand}", rewrite)


def drop_item(item: str) -> Change:
    """*item* is left out of its tuple, list or set, or of the positional arguments of its call."""

    def rewrite(node: ast.AST) -> ast.AST | None:
        field = "elts" if isinstance(node, ast.Tuple | ast.List | ast.Set) else "args"
        if field == "args" and not isinstance(node, ast.Call):
            return None
        left = _without(getattr(node, field), pattern)
        if left is None:
            return None
        setattr(node, field, left)
        return node

    pattern = _expression(item)
    return _on_expressions(f"drop item {item}", rewrite)


def drop_argument(called: str, name: str) -> Change:
    """The call of *called*, the last part of its name, is made without the keyword argument *name*."""

    def rewrite(node: ast.AST) -> ast.AST | None:
        if not isinstance(node, ast.Call) or _last_name(node.func) != called:
            return None
        left = [keyword for keyword in node.keywords if keyword.arg != name]
        if len(left) == len(node.keywords):
            return None
        node.keywords = left
        return node

    return _on_expressions(f"drop argument {name} of {called}()", rewrite)


def in_text(old: str, new: str) -> Change:
    """In the one string literal that holds *old*, exactly once, it becomes *new*."""

    def rewrite(node: ast.AST) -> ast.AST | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(old) == 1:
            return ast.Constant(node.value.replace(old, new))
        return None

    return _on_expressions(f"in a text {old!r}  ->  {new!r}", rewrite)


def returns(value: str) -> Change:
    """The function only returns *value*."""

    def apply(scope: ast.AST) -> int:
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            return 0
        scope.body = [ast.Return(_expression(value))]
        return 1

    return Change(f"return {value}", apply)


class _Rewriter(ast.NodeTransformer):
    """Replaces each node for which *rewrite* returns another; what was replaced is not searched again."""

    def __init__(self, rewrite: Callable[[ast.AST], ast.AST | None]) -> None:
        self._rewrite = rewrite
        self.count = 0

    def visit(self, node: ast.AST) -> ast.AST:
        replacement = self._rewrite(node)
        if replacement is None:
            return cast(ast.AST, self.generic_visit(node))
        self.count += 1
        return replacement


def _on_expressions(words: str, rewrite: Callable[[ast.AST], ast.AST | None]) -> Change:
    def apply(scope: ast.AST) -> int:
        rewriter = _Rewriter(rewrite)
        rewriter.generic_visit(scope)
        return rewriter.count

    return Change(words, apply)


def _rewrite(old: str, new: str) -> Callable[[ast.AST], ast.AST | None]:
    pattern = _expression(old)

    def rewrite(node: ast.AST) -> ast.AST | None:
        captured: Captured = {}
        return _Filler(captured).visit(_expression(new)) if _matches(pattern, node, captured) else None

    return rewrite


def _on_statements(words: str, old: list[ast.stmt], new: list[ast.stmt]) -> Change:
    def apply(scope: ast.AST) -> int:
        return sum(
            _replace(node, field, old, new)
            for node in list(ast.walk(scope))
            for field in _BODIES
            if isinstance(getattr(node, field, None), list)
        )

    return Change(words, apply)


def _replace(node: ast.AST, field: str, old: list[ast.stmt], new: list[ast.stmt]) -> int:
    body: list[ast.stmt] = getattr(node, field)
    result: list[ast.stmt] = []
    count = start = 0
    while start < len(body):
        captured: Captured = {}
        if _matches(old, body[start : start + len(old)], captured):
            copy = ast.parse(ast.unparse(ast.Module(new, []))).body
            result += [cast(ast.stmt, _Filler(captured).visit(statement)) for statement in copy]
            start, count = start + len(old), count + 1
        else:
            result.append(body[start])
            start += 1
    if count:
        setattr(node, field, result or ([ast.Pass()] if field == "body" else []))
    return count


class _Filler(ast.NodeTransformer):
    """Puts what a pattern captured into its replacement."""

    def __init__(self, captured: Captured) -> None:
        self._captured = captured

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return cast(ast.AST, self._captured.get(node.id, node))

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if "..." in self._captured:
            for field in _BODIES:
                if _is_any_body(getattr(node, field, None)):
                    setattr(node, field, self._captured["..."])
        return node


def _matches(pattern: object, node: object, captured: Captured) -> bool:
    if isinstance(pattern, ast.Name) and pattern.id.startswith("__") and isinstance(node, ast.expr):
        known = captured.setdefault(pattern.id, node) if pattern.id != "__" else node
        return known is node or ast.dump(cast(ast.AST, known)) == ast.dump(node)
    if isinstance(pattern, list) and isinstance(node, list):
        if _is_any_body(pattern):
            captured["..."] = node
            return bool(node)
        return len(pattern) == len(node) and all(_matches(p, n, captured) for p, n in zip(pattern, node, strict=True))
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            _matches(value, getattr(node, field, None), captured)
            for field, value in ast.iter_fields(pattern)
            if field not in _IGNORED
        )
    return type(pattern) is type(node) and pattern == node


def _is_any_body(body: object) -> bool:
    return (
        isinstance(body, list)
        and len(body) == 1
        and isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and body[0].value.value is ...
    )


def _without(nodes: list[ast.expr], pattern: ast.expr) -> list[ast.expr] | None:
    """The nodes but for the one that matches; None unless exactly one does and another is left."""
    left = [node for node in nodes if not _matches(pattern, node, {})]
    return left if left and len(left) == len(nodes) - 1 else None


def _last_name(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text, mode="eval")
    except SyntaxError:
        return False
    return True


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _statements(text: str) -> list[ast.stmt]:
    """The statements of *text*; those that stand only in a function or loop are allowed."""
    inside = ast.parse(f"async def f():\n while True:\n{textwrap.indent(textwrap.dedent(text), '  ')}").body[0]
    return cast(ast.While, cast(ast.AsyncFunctionDef, inside).body[0]).body
