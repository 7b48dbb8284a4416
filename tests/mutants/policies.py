"""Planted faults of the policy language: compiling, deciding, linting."""

from __future__ import annotations

from tests.mutants.changes import drop_argument, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_POLICY = "hybrid_llm.policies.policy"
_COMPILE = "hybrid_llm.policies.language.compile"
_RUNTIME = "hybrid_llm.policies.language.runtime"
_DOMAINS = "hybrid_llm.policies.lint.atoms"
_ATOMS = "hybrid_llm.policies.lint.atoms"
_ANALYSIS = "hybrid_llm.policies.lint.analysis"
_FINDINGS = "hybrid_llm.policies.lint.findings"
_LOAD = "hybrid_llm.policies.load"
_REQUEST = "hybrid_llm.core.request"
_TYPES = "hybrid_llm.policies.language.types"
_RULES = "hybrid_llm.policies.policy"
_YAMLTEXT = "hybrid_llm.policies.reader.yamltext"
_SOURCE = "hybrid_llm.policies.reader.source"

MUTANTS = (
    Mutant(
        "tags are joined, not intersected",
        f"{_POLICY}:Policy.allowed",
        swap("allowed &= rule.allow", "allowed |= rule.allow"),
    ),
    Mutant(
        "only the last tag counts", f"{_POLICY}:Policy.allowed", swap("allowed &= rule.allow", "allowed = rule.allow")
    ),
    Mutant("tags are ignored", f"{_POLICY}:Policy._ineligible", never("location not in allowed")),
    Mutant(
        "an undeclared tag allows everything",
        f"{_POLICY}:Policy.allowed",
        swap("raise _undeclared(tag, declared)", "continue"),
    ),
    Mutant(
        "a backend that is not ready is called", f"{_POLICY}:_unfit", swap("state.ready", "state.ready is not None")
    ),
    Mutant(
        "a backend with an open breaker is called",
        f"{_POLICY}:Policy._exclude_open",
        swap("Breaker.OPEN", "Breaker.HALF_OPEN"),
    ),
    Mutant(
        "a last resort may be what a tag or a hard rule excludes",
        f"{_POLICY}:Policy._exclude_open",
        swap(
            "name not in excluded and states[name].breaker == Breaker.OPEN",
            "name in states and states[name].breaker == Breaker.OPEN",
        ),
    ),
    Mutant(
        "a last resort is used although another backend is left",
        f"{_POLICY}:Policy._exclude_open",
        swap("is_last and states[name].serves", "states[name].serves"),
    ),
    Mutant(
        "a last resort need not serve",
        f"{_POLICY}:Policy._exclude_open",
        swap("is_last and states[name].serves", "is_last"),
    ),
    Mutant("a backend without a state is eligible", f"{_POLICY}:_unfit", swap("'its state is unknown'", "''")),
    Mutant(
        "a backend may report another location",
        f"{_POLICY}:_unfit",
        swap("state.location is not location", "state.location is None"),
    ),
    Mutant(
        "an undeclared backend is not reported", f"{_POLICY}:Policy._ineligible", never("name not in self.backends")
    ),
    Mutant(
        "the order forgets the exclusions",
        f"{_POLICY}:Policy._ordered",
        swap("tuple([name for name in names if name not in excluded])", "tuple(names)"),
    ),
    Mutant(
        "rank forgets the exclusions",
        f"{_POLICY}:Policy._ordered",
        swap(
            "left = [name for name in names if name not in excluded]",
            "left = [name for name in names if name in signals.backends]",
        ),
    ),
    Mutant(
        "rank prefers the worst", f"{_POLICY}:Policy._ordered", swap("scores.__getitem__", "lambda name: -scores[name]")
    ),
    Mutant("a hard rule takes out only its first backend", f"{_POLICY}:_exclude", swap("targets", "targets[:1]")),
    Mutant(
        "a rule behind one that orders is skipped",
        f"{_COMPILE}:compile_rules",
        swap(
            "sorted(steps, key=lambda step: step.held is None)",
            "tuple(steps)",
        ),
    ),
    Mutant(
        "a hard rule fails open",
        f"{_COMPILE}:_rule",
        swap("emitter.hook(f'failed_{step.index}', step.failed)", "ast.Pass()"),
    ),
    Mutant(
        "a soft rule that fails matches",
        f"{_COMPILE}:_rule",
        swap("ast.Pass()", "ast.Return(ast.Constant(step.index))"),
    ),
    Mutant(
        "a negation is dropped",
        f"{_COMPILE}:_Emitter._unary",
        swap("ast.UnaryOp(ast.Not(), self.emit(node.item))", "self.emit(node.item)"),
    ),
    Mutant("and is or", f"{_COMPILE}:_Emitter._logic", swap("ast.And", "ast.Or")),
    Mutant(
        "a side that fails ends && and ||",
        f"{_COMPILE}:_rule",
        swap("_has_logic(step.condition)", "step.condition is None"),
    ),
    Mutant(
        "a side that fails is ignored",
        f"{_RUNTIME}:settle",
        swap(("if failure is not None:\n    raise failure"), ("if failure is None:\n    return decisive")),
    ),
    Mutant("&& that tolerates failures is ||", f"{_COMPILE}:_Emitter._logic", swap("'||'", "'&&'")),
    Mutant(
        "a pattern must match the whole text",
        f"{_RUNTIME}:compile_pattern",
        swap("re2.compile(pattern, options).search", "re2.compile(pattern, options).fullmatch"),
    ),
    Mutant(
        "an open end of an interval is closed",
        f"{_DOMAINS}:compared",
        swap("Span(-math.inf, value, high_open=True)", "Span(-math.inf, value, high_open=False)"),
    ),
    Mutant(
        "numbers between two integers are ignored",
        f"{_DOMAINS}:Span.holds_any",
        swap("math.floor(self.low) + 1 if self.low_open else math.ceil(self.low)", "math.floor(self.low) + 1"),
    ),
    Mutant(
        "texts with a common prefix exclude each other",
        f"{_DOMAINS}:TextTest.excludes",
        swap("not self.implies(other)", "self != other"),
    ),
    Mutant(
        "a text that contains a part starts with it",
        f"{_DOMAINS}:TextTest.implies",
        drop_operand("other.kind in {self.kind, 'contains'}"),
    ),
    Mutant("NaN is less", f"{_DOMAINS}:compared", never("_UNORDERED in signs")),
    Mutant("reading a double never fails", f"{_ATOMS}:AtomReader._base", drop_operand("spec.type.kind == 'double'")),
    Mutant("an absent field is present", f"{_ATOMS}:AtomReader._base", drop_argument("Domain", "absent")),
    Mutant("an int never overflows", f"{_ATOMS}:AtomReader._fails", swap("node.type.kind == 'int'", "False")),
    Mutant(
        "a flipped comparison keeps its operator",
        f"{_ATOMS}:_FLIPPED",
        swap(
            "{'<': '>', '<=': '>=', '>': '<', '>=': '<=', '==': '==', '!=': '!='}",
            "{'<': '<', '<=': '>=', '>': '<', '>=': '<=', '==': '==', '!=': '!='}",
        ),
    ),
    Mutant(
        "what fails is false", f"{_ANALYSIS}:_asked", swap("Outcome.FAILS in outcome", "outcome is Outcome.NOT_FALSE")
    ),
    Mutant(
        "a condition of ?: never fails",
        f"{_ANALYSIS}:_choices",
        swap("(*alternatives, _fails(node.condition)) if Outcome.FAILS in outcome else alternatives", "alternatives"),
    ),
    Mutant(
        "&& is not true only if no operand is",
        f"{_ANALYSIS}:Solver._fresh_step",
        swap("Outcome.TRUE in outcome", "outcome in {Outcome.TRUE, Outcome.NOT_TRUE}"),
    ),
    Mutant("a search that gives up reports impossible", f"{_ANALYSIS}:Solver._search", swap("True", "not forks")),
    Mutant(
        "a rule is unreachable behind one that may be true",
        f"{_FINDINGS}:_Examiner._unreached",
        swap("Outcome.NOT_TRUE", "Outcome.FALSE"),
    ),
    Mutant(
        "an exclude is redundant after one of other backends",
        f"{_FINDINGS}:_Examiner._repeats",
        drop_operand("set(rule.targets) - set(one.targets)"),
    ),
    Mutant("dead rules are accepted", f"{_LOAD}:_Builder._report", swap("finding.sure", "None")),
    Mutant("less is less or equal", f"{_COMPILE}:_COMPARE", swap("ast.Lt", "ast.GtE")),
    Mutant(
        "has() is negated",
        f"{_COMPILE}:_Emitter._field",
        swap("_is_not_none(__x)", "ast.UnaryOp(ast.Not(), _is_not_none(__x))"),
    ),
    Mutant("NaN is accepted as a number", f"{_COMPILE}:_Emitter._field", swap("_call('not_a_number')", "_name('v')")),
    Mutant(
        "the branches of ?: are swapped",
        f"{_COMPILE}:_Emitter.emit",
        swap(
            "ast.IfExp(self.emit(node.condition), self.emit(node.then), self.emit(node.otherwise))",
            "ast.IfExp(self.emit(node.condition), self.emit(node.otherwise), self.emit(node.then))",
        ),
    ),
    Mutant(
        "an integer sum overflows silently",
        f"{_COMPILE}:_Emitter._binary",
        swap("_in_range(plain) if node.type.kind == 'int' else plain", "plain"),
    ),
    Mutant(
        "an integer product overflows silently",
        f"{_COMPILE}:_in_range",
        swap("ast.Constant(INT_MAX)", "ast.Constant(INT_MAX * INT_MAX)"),
    ),
    Mutant("a division by zero is zero", f"{_RUNTIME}:_divide", swap("raise Surprise('division by zero')", "return 0")),
    Mutant("a deadline in ms is in seconds", f"{_REQUEST}:RequestMetadata.deadline_ms", swap("1000.0", "1.0")),
    Mutant("a share is read as a percentage", f"{_TYPES}:_DIVISORS", swap("100.0", "1.0")),
    Mutant(
        "the predicted latency ignores the tokens",
        f"{_RULES}:_score",
        swap("state.predicted_tpot_ms * request.max_tokens", "state.predicted_tpot_ms"),
    ),
    Mutant(
        "rank prefers the worse quality",
        f"{_RULES}:_score",
        swap(
            "1.0 - (0.0 if state.quality is None else state.quality)", "0.0 if state.quality is None else state.quality"
        ),
    ),
    Mutant(
        "a backend that was not evaluated counts as a perfect one",
        f"{_RULES}:_score",
        swap("0.0 if state.quality is None else state.quality", "1.0 if state.quality is None else state.quality"),
    ),
    Mutant(
        "a score of NaN ranks first",
        f"{_RULES}:_score",
        swap("math.inf if math.isnan(total) else total", "0.0 if math.isnan(total) else total"),
    ),
    Mutant(
        "a location stands for its first backend only",
        "hybrid_llm.policies.document:backends_named",
        swap(
            "[other for other, location in backends.items() if location == name]",
            "[other for other, location in backends.items() if location == name][:1]",
        ),
    ),
    Mutant(
        "backends that prefer omits are dropped",
        f"{_LOAD}:_Builder._completed",
        swap("(*targets, *(name for name in self.backends if name not in targets))", "targets"),
    ),
    Mutant("a YAML error is not a PolicyError", f"{_YAMLTEXT}:read_yaml", swap("yaml.YAMLError", "ZeroDivisionError")),
    Mutant("line numbers are off by one", f"{_SOURCE}:Faults.position", swap("1", "2")),
)
