"""Random typed expressions mean the same here and in Google's cel-expr-python.

Differences that docs/policies.md names are left out by construction, or allowed: an error on the left of `&&` and `||`
ends the evaluation here, and CEL may let the right side decide.
"""

from __future__ import annotations

import os
import random

import pytest

from hybrid_llm.policies.check import Checker
from hybrid_llm.policies.compile import compile_expression
from hybrid_llm.policies.parser import parse
from hybrid_llm.policies.runtime import Surprise
from hybrid_llm.policies.schema import Objectives, Schema
from hybrid_llm.router.signals import BackendState, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.router.types import Location, Request

cel = pytest.importorskip("cel_expr_python.cel", reason="the oracle is not installed: pip install cel-expr-python")

RUNS = int(os.environ.get("HYBRID_LLM_CEL_RUNS", "3000"))
INTS = ["0", "1", "-1", "2", "7", "-7", "10", "9223372036854775807", "-9223372036854775808", "4611686018427387904"]
DOUBLES = ["0.0", "1.0", "-1.5", "0.1", "1e308", "2.5", "9223372036854775807.0", "1e-308"]
STRINGS = ["''", "'a'", '"ab"', "'病历'", r"'\x41\u00e9\n'", r"r'\n'", "'''b'c'''"]
INT_FIELDS = ["request.prompt_tokens", "request.max_tokens", "edge.queue"]
DOUBLE_FIELDS = ["device.cpu_load", "device.memory_available_mb", "edge.load"]
STRING_FIELDS = ["request.task", "edge.name"]
BOOL_FIELDS = ["network.online", "edge.ready"]
FIELDS = {"int": INT_FIELDS, "double": DOUBLE_FIELDS, "string": STRING_FIELDS, "bool": BOOL_FIELDS}


class Writer:
    """Writes random expressions of a wanted type."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def one(self, *choices: str) -> str:
        return self.random.choice(choices)

    def write(self, kind: str, depth: int) -> str:
        if depth <= 0 or self.random.random() < 0.15:
            return self.leaf(kind)
        return getattr(self, f"{kind}_")(depth - 1)

    def leaf(self, kind: str) -> str:
        literals = {"int": INTS, "double": DOUBLES, "string": STRINGS, "bool": ["true", "false"]}
        return self.one(*literals[kind], *FIELDS[kind] * 3)

    def either(self, kind: str, depth: int) -> str:
        return f"({self.write('bool', depth)} ? {self.write(kind, depth)} : {self.write(kind, depth)})"

    def int_(self, depth: int) -> str:
        a, b = self.write("int", depth), self.write("int", depth)
        operation = f"({a} {self.one('+', '-', '*', '/', '%')} {b})"
        size = f"size({self.one(self.write('string', depth), f'[{a}, {b}]')})"
        return self.one(operation, operation, operation, f"-({a})", size, self.either("int", depth))

    def double_(self, depth: int) -> str:
        a, b = self.write("double", depth), self.write("double", depth)
        operation = f"({a} {self.one('+', '-', '*', '/')} {b})"
        return self.one(
            operation, operation, f"-({a})", f"double({self.write('int', depth)})", self.either("double", depth)
        )

    def string_(self, depth: int) -> str:
        return self.one(
            f"({self.write('string', depth)} + {self.write('string', depth)})", self.either("string", depth)
        )

    def bool_(self, depth: int) -> str:
        a, b = self.write("bool", depth), self.write("bool", depth)
        logic = self.one(f"({a} && {b})", f"({a} || {b})", f"!({a})", f"({a} == {b})", self.either("bool", depth))
        return self.one(logic, self.compared(depth), self.compared(depth), self.text_test(depth), self.member(depth))

    def compared(self, depth: int) -> str:
        left = self.one("int", "double", "string")
        right = left if left == "string" else self.one("int", "double")
        op = self.one("==", "!=", "<", "<=", ">", ">=")
        if left == right:
            return f"({self.write(left, depth)} {op} {self.write(right, depth)})"
        sides = [f"({self.write(kind, depth)}{' % 1000' if kind == 'int' else ''})" for kind in (left, right)]
        return f"({MIXED}{sides[0]} {op} {sides[1]})"

    def text_test(self, depth: int) -> str:
        method = self.one("startsWith", "endsWith", "contains")
        return f"({self.write('string', depth)}).{method}({self.write('string', depth)})"

    def member(self, depth: int) -> str:
        kind = self.one("int", "double", "string")
        items = ", ".join(self.write(kind, depth - 1) for _ in range(self.random.randint(0, 3)))
        return f"({self.write(kind, depth)} in [{items}])"


class World:
    """Random values, for both sides."""

    def __init__(self, draw: random.Random) -> None:
        counts = [0, 1, 7, -3, 2**62, 2**63 - 1, -(2**63)]
        amounts = [0.0, 0.5, -2.0, 1e308, 7.0, 9007199254740993.0, float("inf")]
        self.request = Request(
            messages=(),
            prompt_tokens=draw.choice(counts),
            max_tokens=draw.choice(counts),
            task=draw.choice(["", "a", "病", "é\n"]),
        )
        self.device = DeviceSignals(cpu_load=draw.choice(amounts), memory_available_mb=draw.choice(amounts))
        self.network = NetworkSignals(online=draw.random() < 0.5)
        self.states = {
            "edge": BackendState(
                name="edge",
                location=Location.EDGE,
                ready=draw.random() < 0.5,
                queue=draw.choice(counts),
                load=draw.choice(amounts),
            )
        }
        self.signals = Signals(device=self.device, network=self.network, backends=self.states)

    def flat(self) -> dict[str, object]:
        roots = {"request": self.request, "device": self.device, "network": self.network, "edge": self.states["edge"]}
        names = [name for fields in FIELDS.values() for name in fields]
        return {name.replace(".", "_"): getattr(roots[name.split(".")[0]], name.split(".")[1]) for name in names}


MIXED = "@"
"""Stands before an int or double that is compared with the other: CEL compares these too, behind dyn().

The ints are small there: cel-expr-python rounds an int beyond 2**53 to a double first, here the comparison is exact.
"""
KINDS = {"int": cel.Type.INT, "double": cel.Type.DOUBLE, "string": cel.Type.STRING, "bool": cel.Type.BOOL}


def flat_text(text: str) -> str:
    for names in FIELDS.values():
        for name in names:
            text = text.replace(name, name.replace(".", "_"))
    return text.replace(MIXED, "dyn")


def ours(text: str, world: World) -> object:
    """The value here; "error" for a surprise, None where the checker refuses what CEL allows."""
    schema = Schema({"edge": Location.EDGE}, Objectives())
    faults: list[str] = []
    typed = Checker(schema, frozenset()).condition(
        parse(text.replace(MIXED, "")), lambda message, *_: faults.append(message)
    )
    if faults:
        return None
    try:
        return compile_expression(typed, schema)(world.request, world.signals)
    except Surprise:
        return "error"


def theirs(environment: object, text: str, world: World) -> object:
    value = environment.compile(flat_text(text)).eval(data=world.flat())
    return "error" if value.type() == cel.Type.ERROR else value.value()


def test_random_expressions_agree_with_cel():
    variables = {name.replace(".", "_"): KINDS[kind] for kind, names in FIELDS.items() for name in names}
    environment = cel.NewEnv(variables=variables)
    compared = surprises = 0
    for seed in range(RUNS):
        writer = Writer(seed)
        text, world = writer.write("bool", 4), World(writer.random)
        here = ours(text, world)
        if here is None:
            continue
        there = theirs(environment, text, world)
        if here == "error" and ("&&" in text or "||" in text):
            surprises += 1
            continue
        assert here == there, f"seed {seed}: {text} is {here!r} here and {there!r} in CEL, for {world.flat()}"
        compared += 1
    assert compared > RUNS // 3
    assert surprises < RUNS // 2
