"""Compiles the rules of a policy to one Python function, by building its syntax tree; no text is ever evaluated.

The function is `rules(request, signals, excluded) -> int`: it calls a hook for every hard rule that holds, and returns
the index of the first ordering rule that holds, or -1.

A condition is compiled to Python's own `and` and `or`. If that raises, a second, careful form decides as CEL does:
`a && b` is false if either side is false, even if the other fails. The careful form costs nothing until then.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from types import CodeType, FunctionType

from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.policies.language import types
from hybrid_llm.policies.language.check import Report
from hybrid_llm.policies.language.runtime import ARITHMETIC, INT_MAX, INT_MIN, compile_pattern, not_a_number, settle
from hybrid_llm.policies.language.schema import FieldSpec, Schema
from hybrid_llm.policies.language.types import Node

Hook = Callable[[MutableMapping[str, str]], None]
Expression = Callable[[RequestMetadata, Signals], object]
Rules = Callable[[RequestMetadata, Signals, MutableMapping[str, str]], int]

_PARAMETERS = ("request", "signals")
_ROOTS = {"device": "device", "network": "network", "budget": "budget", "states": "backends"}
"""Name of signals in a compiled function -> attribute of `Signals`."""
_COMPARE: dict[str, type[ast.cmpop]] = {
    "==": ast.Eq,
    "!=": ast.NotEq,
    "<": ast.Lt,
    "<=": ast.LtE,
    ">": ast.Gt,
    ">=": ast.GtE,
    "in": ast.In,
}
_PLAIN: dict[str, type[ast.operator]] = {"+": ast.Add, "-": ast.Sub, "*": ast.Mult}
_CHECKED = {"/": "divide", "%": "remainder"}
_METHODS = {"startsWith": "startswith", "endsWith": "endswith"}


@dataclass(frozen=True, slots=True)
class Step:
    """One rule. *held* and *failed* are the hooks of a hard rule; a rule that orders has none."""

    index: int
    condition: Node | None
    held: Hook | None = None
    failed: Hook | None = None


def compile_expression(node: Node, schema: Schema) -> Expression:
    """Compile one checked expression to a function of (request, signals)."""
    emitter = _Emitter(schema, _namespace())
    quick = _judge(emitter, node)
    if not _has_logic(node):
        return quick
    careful = _judge(emitter.careful(), node)

    def expression(request: RequestMetadata, signals: Signals) -> object:
        try:
            return quick(request, signals)
        except Exception:  # noqa: BLE001 - as in compiled rules: signals can be anything
            return careful(request, signals)

    return expression


def _judge(emitter: _Emitter, node: Node) -> Expression:
    function: Expression = _function("expression", _PARAMETERS, [ast.Return(emitter.emit(node))], emitter.namespace)
    return function


def _has_logic(node: Node) -> bool:
    return any(isinstance(part, types.Logic) for part in types.walk(node))


def compile_rules(steps: Iterable[Step], schema: Schema) -> Rules:
    """Compile all rules of a policy to one function: first every hard rule, then those that order.

    Any exception in a hard rule calls its *failed* hook: hard rules fail closed.
    """
    emitter = _Emitter(schema, _namespace())
    hard_first = sorted(steps, key=lambda step: step.held is None)
    body: list[ast.stmt] = [*(_rule(step, emitter) for step in hard_first), ast.Return(ast.Constant(-1))]
    function: Rules = _function("rules", (*_PARAMETERS, "excluded"), body, emitter.namespace)
    return function


def _namespace() -> dict[str, object]:
    builtins = {"len": len, "float": float, "Exception": Exception}
    return {**ARITHMETIC, **builtins, "not_a_number": not_a_number, "settle": settle, "__builtins__": {}}


def _rule(step: Step, emitter: _Emitter) -> ast.stmt:
    held: ast.stmt = ast.Return(ast.Constant(step.index))
    failed: ast.stmt = ast.Pass()
    if step.held is not None:
        held = emitter.hook(f"held_{step.index}", step.held)
        failed = emitter.hook(f"failed_{step.index}", step.failed)
    if step.condition is None:
        return held
    if _has_logic(step.condition):
        name = f"careful_{step.index}"
        emitter.namespace[name] = _judge(emitter.careful(), step.condition)
        failed = _try(ast.If(_call(name, *map(_name, _PARAMETERS)), [held], []), failed)
    return _try(ast.If(emitter.emit(step.condition), [held], []), failed)


def _try(body: ast.stmt, otherwise: ast.stmt) -> ast.stmt:
    # Every exception: signals can be anything, and a rule that cannot be evaluated must not end the request.
    handler = ast.ExceptHandler(_name("Exception"), None, [otherwise])
    return ast.Try([body], [handler], [], [])


def _function(name: str, parameters: Iterable[str], body: list[ast.stmt], namespace: dict[str, object]) -> FunctionType:
    """Build the function from its code object, so that no statement of a module ever runs."""
    arguments = ast.arguments([], [ast.arg(parameter) for parameter in parameters], None, [], [], None, [])
    definition = ast.FunctionDef(name, arguments, [*_unpacked(body), *body], [], None)
    module = ast.fix_missing_locations(ast.Module([definition], []))
    outer = compile(module, "<policy>", "exec")
    code = next(constant for constant in outer.co_consts if isinstance(constant, CodeType))
    return FunctionType(code, namespace, name)


def _unpacked(body: list[ast.stmt]) -> list[ast.stmt]:
    """Assign `device = signals.device` and the like for what *body* reads: local names are the fastest to read."""
    read = {node.id for statement in body for node in ast.walk(statement) if isinstance(node, ast.Name)}
    return [
        ast.Assign([ast.Name(root, ast.Store())], _attribute(_name("signals"), attribute))
        for root, attribute in _ROOTS.items()
        if root in read
    ]


def _name(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _call(function: str, *args: ast.expr) -> ast.expr:
    return ast.Call(_name(function), list(args), [])


def _is_not_none(value: ast.expr) -> ast.expr:
    return ast.Compare(value, [ast.IsNot()], [ast.Constant(None)])


def _in_range(value: ast.expr) -> ast.expr:
    """An int that must fit 64 bits: `(n if MIN <= (n := value) <= MAX else overflow())`, which calls nothing."""
    stored = ast.NamedExpr(ast.Name("n", ast.Store()), value)
    bounds: list[ast.expr] = [stored, ast.Constant(INT_MAX)]
    return ast.IfExp(ast.Compare(ast.Constant(INT_MIN), [ast.LtE(), ast.LtE()], bounds), _name("n"), _call("overflow"))


def _attribute(value: ast.expr, name: str) -> ast.expr:
    return ast.Attribute(value, name, ast.Load())


class _Emitter:
    """Builds the Python syntax tree of a checked expression."""

    def __init__(self, schema: Schema, namespace: dict[str, object], *, safe: bool = False) -> None:
        self._schema = schema
        self.namespace = namespace
        self._safe = safe

    def careful(self) -> _Emitter:
        """The emitter of the form in which one side of `&&` and `||` may fail while the other decides."""
        return _Emitter(self._schema, self.namespace, safe=True)

    def hook(self, name: str, hook: Hook | None) -> ast.stmt:
        self.namespace[name] = hook
        return ast.Expr(_call(name, _name("excluded")))

    def emit(self, node: Node) -> ast.expr:
        match node:
            case types.Field() | types.Has():
                return self._field(node)
            case types.Unary():
                return self._unary(node)
            case types.Logic():
                return self._logic(node)
            case types.ListOf():
                return ast.Tuple([self.emit(item) for item in node.items], ast.Load())
            case types.Conditional():
                return ast.IfExp(self.emit(node.condition), self.emit(node.then), self.emit(node.otherwise))
            case types.Call():
                return self._function(node)
            case types.Binary():
                return self._binary(node)
        return ast.Constant(node.value)

    def _unary(self, node: types.Unary) -> ast.expr:
        if node.op == "!":
            return ast.UnaryOp(ast.Not(), self.emit(node.item))
        negated = ast.UnaryOp(ast.USub(), self.emit(node.item))
        return _in_range(negated) if node.type.kind == "int" else negated

    def _logic(self, node: types.Logic) -> ast.expr:
        items = [self.emit(item) for item in node.items]
        if not self._safe:
            return ast.BoolOp(ast.And() if node.op == "&&" else ast.Or(), items)
        nothing = ast.arguments([], [], None, [], [], None, [])
        return _call("settle", ast.Constant(node.op == "||"), *(ast.Lambda(nothing, item) for item in items))

    def _raw(self, spec: FieldSpec) -> ast.expr:
        """The signal itself, unchecked."""
        if spec.root == "objectives":
            return ast.Constant(spec.constant)
        if spec.root == "backend":
            state = ast.Subscript(_name("states"), ast.Constant(spec.owner), ast.Load())
            return _attribute(state, spec.attribute)
        return _attribute(_name(spec.root), spec.attribute)

    def _field(self, node: types.Field | types.Has) -> ast.expr:
        """A double is checked for NaN as it is read: `(v if (v := x) == v else not_a_number())`."""
        if isinstance(node, types.Has):
            return _is_not_none(self._raw(self._schema.spec(node.field)))
        spec = self._schema.spec(node)
        raw = self._raw(spec)
        if spec.type.kind != "double" or spec.root == "objectives":
            return raw
        stored = ast.NamedExpr(ast.Name("v", ast.Store()), raw)
        return ast.IfExp(ast.Compare(stored, [ast.Eq()], [_name("v")]), _name("v"), _call("not_a_number"))

    def _function(self, node: types.Call) -> ast.expr:
        args = [self.emit(arg) for arg in node.args]
        match node.function:
            case "size":
                return _call("len", *args)
            case "double":
                return _call("float", *args)
            case "matches":
                return _is_not_none(self._search(node.args[1], args[0]))
            case "contains":
                return ast.Compare(args[1], [ast.In()], [args[0]])
            case _:
                return ast.Call(_attribute(args[0], _METHODS[node.function]), args[1:], [])

    def _search(self, pattern: Node, text: ast.expr) -> ast.expr:
        """Call the search of a pattern, which is compiled once and lives in the namespace."""
        assert isinstance(pattern, types.Literal)
        name = f"search_{len(self.namespace)}"
        self.namespace[name] = compile_pattern(str(pattern.value))
        return _call(name, text)

    def _binary(self, node: types.Binary) -> ast.expr:
        left = self.emit(node.left)
        if node.op == "in" and isinstance(node.right, types.Field) and node.right.key == "request.tags":
            return ast.Compare(left, [ast.In()], [_attribute(_name("request"), "privacy")])
        right = self.emit(node.right)
        if node.op in _COMPARE:
            return ast.Compare(left, [_COMPARE[node.op]()], [right])
        if node.op not in _PLAIN:
            return _call(_CHECKED[node.op] if node.type.kind == "int" else "divide_double", left, right)
        plain = ast.BinOp(left, _PLAIN[node.op](), right)
        return _in_range(plain) if node.type.kind == "int" else plain


def is_constant(node: Node, schema: Schema) -> bool:
    """Whether *node* reads nothing but objectives, which the policy itself sets."""
    return all(schema.spec(field).root == "objectives" for field in types.fields_of(node))


def constant_value(node: Node, schema: Schema) -> object:
    """The value of a constant node.

    Raises:
        ArithmeticError: an overflow or a division by zero.
    """
    if isinstance(node, types.Literal):
        return node.value
    return compile_expression(node, schema)(RequestMetadata(), Signals())


def check_constants(node: Node, schema: Schema, report: Report) -> None:
    """Report what fails whatever the signals are: an overflow among constants, a division by a constant zero.

    CEL reports these at run time; here the policy is rejected.
    """
    if is_constant(node, schema) and node.type != types.BOOL:
        try:
            constant_value(node, schema)
        except ArithmeticError as error:
            report(f"this always fails: {error}", node.start, None)
        return
    for child in types.children(node):
        check_constants(child, schema, report)
    if isinstance(node, types.Binary) and node.op in "/%" and node.type.kind == "int" and _is_zero(node.right, schema):
        report("division by zero", node.right.start, None)


def _is_zero(node: Node, schema: Schema) -> bool:
    try:
        return is_constant(node, schema) and constant_value(node, schema) == 0
    except ArithmeticError:
        return False
