"""Random typed expressions mean the same here and in Google's cel-expr-python.

Both sides are written at once: `«here|there»` stands where the two differ in form. Differences in meaning are those
that docs/policies.md names, and they are left out by construction.
"""

from __future__ import annotations

import os
import random
import re

import pytest

from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies.language.check import Checker
from hybrid_llm.policies.language.compile import compile_expression
from hybrid_llm.policies.language.parser import parse
from hybrid_llm.policies.language.runtime import Surprise
from hybrid_llm.policies.language.schema import Objectives, Schema
from hybrid_llm.policies.lint.findings import check_guards

cel = pytest.importorskip("cel_expr_python.cel", reason="the oracle is not installed: pip install cel-expr-python")

RUNS = int(os.environ.get("HYBRID_TESTS_CEL_RUNS", "2000"))
INTS = ["0", "1", "-1", "2", "7", "-7", "10", "9223372036854775807", "-9223372036854775808", "4611686018427387904"]
DOUBLES = ["0.0", "1.0", "-1.5", "0.1", "1e308", "2.5", "9223372036854775807.0", "1e-308"]
STRINGS = ["''", "'a'", '"ab"', "'病历'", r"'\x41\u00e9\n'", r"r'\n'", "'''b'c'''"]
PATTERNS = [
    "''",
    "'a'",
    "'^a$'",
    "'(?i)B'",
    r"r'^\w+$'",
    r"r'\d'",
    "'.'",
    "'(?s).'",
    r"r'\p{Han}'",
    "'a|é'",
    "'[^a]{2}'",
]
INT_FIELDS = ["request.prompt_tokens", "request.max_tokens", "edge.queue"]
DOUBLE_FIELDS = ["device.cpu_load", "edge.load", "edge.energy_per_1k_tokens_j"]
STRING_FIELDS = ["request.task", "edge.name"]
BOOL_FIELDS = ["network.online", "edge.ready"]
FIELDS = {"int": INT_FIELDS, "double": DOUBLE_FIELDS, "string": STRING_FIELDS, "bool": BOOL_FIELDS}
OPTIONAL = {
    "device.battery": "double",
    "device.temperature_c": "double",
    "request.tenant": "string",
    "device.charging": "bool",
    "edge.quality": "double",
}
QUANTITIES = {
    "device.cpu_load": ["«20%|0.2»", "«50%|0.5»", "«700%|7.0»"],
    "edge.predicted_ttft_ms": ["«7ms|7.0»", "«0.5s|500.0»", "«1m|60000.0»", "«250us|0.25»"],
    "edge.cost_per_1k_tokens": ["«0.02 USD|0.02»", "«7 USD|7.0»"],
    "budget.spent": ["«0.5 USD|0.5»", "«7 USD|7.0»"],
}
MIXED = "«|dyn»"
"""Stands before an int or double that is compared with the other: CEL compares these too, behind dyn().

The ints are small there: cel-expr-python rounds an int beyond 2**53 to a double first, here the comparison is exact.
"""


def field(name: str) -> str:
    return f"«{name}|{name.replace('.', '_')}»"


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
        return self.one(*literals[kind], *map(field, FIELDS[kind] * 3))

    def either(self, kind: str, depth: int) -> str:
        return f"({self.write('bool', depth)} ? {self.write(kind, depth)} : {self.write(kind, depth)})"

    def operation(self, kind: str, depth: int, *operators: str) -> str:
        return f"({self.write(kind, depth)} {self.one(*operators)} {self.write(kind, depth)})"

    def int_(self, depth: int) -> str:
        match self.random.randrange(6):
            case 0:
                return f"-({self.write('int', depth)})"
            case 1:
                return f"size({self.one(self.write('string', depth), self.items('int', depth), field('request.tags'))})"
            case 2:
                return self.either("int", depth)
            case _:
                return self.operation("int", depth, "+", "-", "*", "/", "%")

    def double_(self, depth: int) -> str:
        match self.random.randrange(5):
            case 0:
                return f"-({self.write('double', depth)})"
            case 1:
                return f"double({self.write('int', depth)})"
            case 2:
                return self.either("double", depth)
            case _:
                return self.operation("double", depth, "+", "-", "*", "/")

    def string_(self, depth: int) -> str:
        return self.operation("string", depth, "+") if self.random.random() < 0.5 else self.either("string", depth)

    def bool_(self, depth: int) -> str:
        tests = [self.text_test, self.member, self.guarded, self.lists, self.quantity]
        return self.random.choice([self.logic, self.logic, self.compared, self.compared, *tests])(depth)

    def logic(self, depth: int) -> str:
        match self.random.randrange(4):
            case 0:
                return f"!({self.write('bool', depth)})"
            case 1:
                return self.either("bool", depth)
            case _:
                return self.operation("bool", depth, "&&", "||", "&&", "||", "==")

    def items(self, kind: str, depth: int) -> str:
        return f"[{', '.join(self.write(kind, depth) for _ in range(self.random.randint(0, 3)))}]"

    def compared(self, depth: int) -> str:
        left = self.one("int", "double", "string")
        right = left if left == "string" else self.one("int", "double")
        op = self.one("==", "!=", "<", "<=", ">", ">=")
        if left == right:
            return f"({self.write(left, depth)} {op} {self.write(right, depth)})"
        sides = [f"({self.write(kind, depth)}{' % 1000' if kind == 'int' else ''})" for kind in (left, right)]
        return f"({MIXED}{sides[0]} {op} {sides[1]})"

    def text_test(self, depth: int) -> str:
        text = self.write("string", depth)
        if self.random.random() < 0.4:
            pattern = self.one(*PATTERNS)
            return self.one(f"({text}).matches({pattern})", f"matches({text}, {pattern})")
        method = self.one("startsWith", "endsWith", "contains")
        return f"({text}).{method}({self.write('string', depth)})"

    def member(self, depth: int) -> str:
        if self.random.random() < 0.2:
            return f"({self.write('string', depth)} in {field('request.tags')})"
        kind = self.one("int", "double", "string")
        return f"({self.write(kind, depth)} in {self.items(kind, depth - 1)})"

    def lists(self, depth: int) -> str:
        kind = self.one("int", "double", "string", "bool")
        depth = min(depth, 1)
        return f"({self.items(kind, depth)} {self.one('==', '!=')} {self.items(kind, depth)})"

    def guarded(self, depth: int) -> str:
        name = self.one(*OPTIONAL)
        there = f"opt.{name.replace('.', '_')}"
        has, read = f"«has({name})|has({there})»", f"«{name}|{there}»"
        kind = OPTIONAL[name]
        test = read if kind == "bool" else f"({read} {self.one('==', '<', '>=', '!=')} {self.write(kind, depth)})"
        return self.one(
            has, f"({has} && {test})", f"(!{has} || {test})", f"({has} ? {test} : {self.write('bool', depth)})"
        )

    def quantity(self, _: int) -> str:
        name = self.one(*QUANTITIES)
        value = self.one(*QUANTITIES[name])
        if self.random.random() < 0.2:
            return f"({field(name)} in [{value}, {self.one(*QUANTITIES[name])}])"
        return f"({field(name)} {self.one('==', '<', '<=', '>')} {value})"


class World:
    """Random values, for both sides."""

    def __init__(self, draw: random.Random) -> None:
        counts = [0, 1, 7, -3, 2**62, 2**63 - 1, -(2**63)]
        amounts = [0.0, 0.5, -2.0, 1e308, 7.0, 0.02, 500.0, 9007199254740993.0, float("inf")]
        self.request = RequestMetadata(
            prompt_tokens=draw.choice(counts),
            max_tokens=draw.choice(counts),
            task=draw.choice(["", "a", "病", "é\n", "Ab"]),
            tenant=draw.choice([None, "a", ""]),
            privacy=frozenset(draw.sample(["a", "ab", "A"], draw.randint(0, 3))),
        )
        self.device = DeviceSignals(
            cpu_load=draw.choice(amounts),
            battery=draw.choice([None, *amounts]),
            temperature_c=draw.choice([None, *amounts]),
            charging=draw.choice([None, True, False]),
        )
        self.network = NetworkSignals(online=draw.random() < 0.5)
        self.budget = BudgetSignals(spent=draw.choice(amounts))
        self.edge = BackendState(
            name="edge",
            location=Location.EDGE,
            ready=draw.random() < 0.5,
            queue=draw.choice(counts),
            load=draw.choice(amounts),
            energy_per_1k_tokens_j=draw.choice(amounts),
            predicted_ttft_ms=draw.choice(amounts),
            cost_per_1k_tokens=draw.choice(amounts),
            quality=draw.choice([None, *amounts]),
        )
        self.signals = Signals(
            device=self.device, network=self.network, budget=self.budget, backends={"edge": self.edge}
        )

    def read(self, name: str) -> object:
        root, attribute = name.split(".")
        return getattr(getattr(self, root), attribute)

    def flat(self) -> dict[str, object]:
        names = [name for fields in FIELDS.values() for name in fields]
        values = {name.replace(".", "_"): self.read(name) for name in (*names, *QUANTITIES)}
        optional = {name.replace(".", "_"): self.read(name) for name in OPTIONAL}
        there = {name: value for name, value in optional.items() if value is not None}
        return {**values, "opt": there, "request_tags": sorted(self.request.privacy)}


KINDS = {"int": cel.Type.INT, "double": cel.Type.DOUBLE, "string": cel.Type.STRING, "bool": cel.Type.BOOL}


def side(text: str, number: int) -> str:
    return re.sub("«(.*?)[|](.*?)»", rf"\{number}", text)


def ours(text: str, world: World) -> object:
    """The value here; "error" for a surprise, None where the checker refuses what CEL allows."""
    schema = Schema({"edge": Location.EDGE}, Objectives())
    faults: list[str] = []
    typed = Checker(schema, frozenset(["a", "ab", "A"])).condition(
        parse(side(text, 1)), lambda message, *_: faults.append(message)
    )
    check_guards(typed, schema, lambda message, *_: faults.append(message))
    if faults:
        return None
    try:
        return compile_expression(typed, schema)(world.request, world.signals)
    except Surprise:
        return "error"


def theirs(environment: object, text: str, world: World) -> object:
    value = environment.compile(side(text, 2)).eval(data=world.flat())
    return "error" if value.type() == cel.Type.ERROR else value.value()


def environment_of_all() -> object:
    variables = {name.replace(".", "_"): KINDS[kind] for kind, names in FIELDS.items() for name in names}
    variables |= {name.replace(".", "_"): cel.Type.DOUBLE for name in QUANTITIES}
    variables |= {"opt": cel.Type.Map(cel.Type.STRING, cel.Type.DYN), "request_tags": cel.Type.List(cel.Type.STRING)}
    return cel.NewEnv(variables=variables)


def test_random_expressions_agree_with_cel():
    environment = environment_of_all()
    compared = surprises = 0
    for seed in range(RUNS):
        writer = Writer(seed)
        text, world = writer.write("bool", 4), World(writer.random)
        here = ours(text, world)
        if here is None:
            continue
        there = theirs(environment, text, world)
        assert here == there, f"seed {seed}: {text} is {here!r} here and {there!r} in CEL, for {world.flat()}"
        compared += 1
        surprises += here == "error"
    assert compared > RUNS * 0.6
    assert surprises < RUNS // 2
