"""The planted faults: each is one change of text in the policy package that the properties must notice."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

MUTANTS = (
    Mutant("tags are joined, not intersected", "policy.py", "allowed &= rule.allow", "allowed |= rule.allow"),
    Mutant("only the last tag counts", "policy.py", "allowed &= rule.allow", "allowed = rule.allow"),
    Mutant("tags are not looked at", "policy.py", "if location not in allowed:", "if location in ():"),
    Mutant(
        "an undeclared tag allows everything",
        "policy.py",
        "                raise _undeclared(tag, declared)",
        "                continue",
    ),
    Mutant("a backend that is not ready is asked", "policy.py", "if not state.ready:", "if state.ready is None:"),
    Mutant(
        "an open breaker is asked", "policy.py", "state.breaker == Breaker.OPEN", "state.breaker == Breaker.HALF_OPEN"
    ),
    Mutant("an unknown state is fit", "policy.py", 'return "nothing is known about it"', 'return ""'),
    Mutant(
        "a backend may lie about its place",
        "policy.py",
        "if state.location is not location:",
        "if state.location is None:",
    ),
    Mutant(
        "a stranger is not told",
        "policy.py",
        "            for name in states:\n                if name not in self._terms.backends:",
        "            for name in states:\n                if name in ():",
    ),
    Mutant(
        "the order forgets the exclusions",
        "policy.py",
        "return tuple([name for name in names if name not in excluded])",
        "return tuple(names)",
    ),
    Mutant(
        "rank forgets the exclusions",
        "policy.py",
        "left = [name for name in names if name not in excluded]",
        "left = [name for name in names if name in signals.backends]",
    ),
    Mutant("rank prefers the worst", "policy.py", "key=scores.__getitem__", "key=lambda name: -scores[name]"),
    Mutant(
        "a hard rule takes out only its first backend", "policy.py", "for name in targets:", "for name in targets[:1]:"
    ),
    Mutant(
        "a rule behind one that orders is skipped",
        "compile.py",
        "[*hard, *soft, ast.Return",
        "[*[(_hard(s, emitter, namespace) if s.held else _soft(s, emitter, namespace)) for s in steps], ast.Return",
    ),
    Mutant(
        "a hard rule fails open",
        "compile.py",
        'failed: ast.stmt = ast.Expr(_call(f"failed_{step.index}", _name("excluded")))',
        "failed: ast.stmt = ast.Pass()",
    ),
    Mutant(
        "a soft rule that cannot be judged matches",
        "compile.py",
        "namespace, found, ast.Pass())",
        "namespace, found, ast.Return(ast.Constant(step.index)))",
    ),
    Mutant(
        "not is lost",
        "compile.py",
        "return ast.UnaryOp(ast.Not(), self.emit(node.item))",
        "return self.emit(node.item)",
    ),
    Mutant(
        "and is or",
        "compile.py",
        'ast.And() if node.op == "&&" else ast.Or()',
        'ast.Or() if node.op == "&&" else ast.Or()',
    ),
    Mutant(
        "a side that fails ends && and ||", "compile.py", "    if _has_logic(condition):", "    if condition is None:"
    ),
    Mutant(
        "a side that fails is forgotten",
        "runtime.py",
        "    if failure is not None:\n        raise failure",
        "    if failure is None:\n        return decisive",
    ),
    Mutant("careful and is or", "compile.py", 'ast.Constant(node.op == "||")', 'ast.Constant(node.op == "&&")'),
    Mutant("a pattern must match the whole text", "runtime.py", "options).search", "options).fullmatch"),
    Mutant(
        "an open end of an interval is closed",
        "domains.py",
        "below, above = Span(-math.inf, value, high_open=True), Span(value, math.inf, low_open=True)",
        "below, above = Span(-math.inf, value, high_open=False), Span(value, math.inf, low_open=True)",
    ),
    Mutant(
        "numbers between two whole ones are forgotten",
        "domains.py",
        "least = math.floor(self.low) + 1 if self.low_open else math.ceil(self.low)",
        "least = math.floor(self.low) + 1",
    ),
    Mutant(
        "a text that starts alike starts apart",
        "domains.py",
        "return not self.implies(other) and",
        "return self != other and",
    ),
    Mutant(
        "a text that contains a part begins with it",
        "domains.py",
        'other.kind in {self.kind, "contains"} and other.holds(self.value)',
        "other.holds(self.value)",
    ),
    Mutant("NaN is less", "domains.py", 'nan=op == "!=")', "nan=False)"),
    Mutant(
        "a double can always be read",
        "atoms.py",
        'fails = spec.root == "backend" or spec.type.kind == "double"',
        'fails = spec.root == "backend"',
    ),
    Mutant("an absent field is present", "atoms.py", "absent=spec.optional, broken=fails", "broken=fails"),
    Mutant("an int never overflows", "atoms.py", "return arithmetic or isinstance", "return isinstance"),
    Mutant(
        "flipped comparisons keep their sign",
        "atoms.py",
        '"<": ">", "<=": ">=", ">": "<"',
        '"<": "<", "<=": ">=", ">": "<"',
    ),
    Mutant(
        "what fails is false",
        "analysis.py",
        "Outcome.NOT_TRUE: atom.not_true,",
        "Outcome.NOT_TRUE: atom.false,",
    ),
    Mutant(
        "a condition of ?: never fails",
        "analysis.py",
        "return (*ways, _fails(node.condition)) if outcome in _MAY_FAIL else ways",
        "return ways",
    ),
    Mutant(
        "not true of && is not true of all",
        "analysis.py",
        "_ALL_OF_AND = frozenset({Outcome.TRUE, Outcome.NOT_FALSE})",
        "_ALL_OF_AND = frozenset({Outcome.TRUE, Outcome.NOT_TRUE})",
    ),
    Mutant(
        "a search that gives up finds nothing",
        "analysis.py",
        "_MOST_IN_ALL:\n            return True",
        "_MOST_IN_ALL:\n            return not forks",
    ),
    Mutant(
        "a rule is unreached where an earlier one may be true",
        "findings.py",
        "if not self._possible((rule, Outcome.TRUE), *((one, Outcome.NOT_TRUE) for one in self._orders)):",
        "if not self._possible((rule, Outcome.TRUE), *((one, Outcome.FALSE) for one in self._orders)):",
    ),
    Mutant(
        "an exclude repeats one that takes others out",
        "findings.py",
        "if set(rule.targets) - set(one.targets) or self._possible(",
        "if self._possible(",
    ),
    Mutant(
        "dead rules are let pass",
        "load.py",
        "tell = self._faults.add if finding.sure",
        "tell = self._faults.add if None",
    ),
    Mutant("less is less or equal", "compile.py", '"<": ast.Lt,', '"<": ast.GtE,'),
    Mutant("has is upside down", "compile.py", "ast.Compare(raw, [ast.IsNot()]", "ast.Compare(raw, [ast.Is()]"),
    Mutant("NaN passes for a number", "compile.py", '_call("not_a_number"))', '_name("v"))'),
    Mutant(
        "the branches of ?: are swapped",
        "compile.py",
        "self.emit(node.then), self.emit(node.otherwise)",
        "self.emit(node.otherwise), self.emit(node.then)",
    ),
    Mutant(
        "ints overflow in silence",
        "runtime.py",
        "return value if _MIN <= value <= _MAX else _checked(value)",
        "return value",
    ),
    Mutant("a product overflows in silence", "runtime.py", "return _checked(left * right)", "return left * right"),
    Mutant(
        "a division by zero is zero",
        "runtime.py",
        '        raise Surprise("division by zero")\n    quotient',
        "        return 0\n    quotient",
    ),
    Mutant("the deadline is in seconds", "runtime.py", "request.deadline * 1000.0", "request.deadline * 1.0"),
    Mutant(
        "a share is read as a percentage",
        "units.py",
        '("percent", "share"): 100.0',
        '("percent", "share"): 1.0',
    ),
    Mutant(
        "latency forgets the tokens",
        "rules.py",
        "state.predicted_tpot_ms * request.max_tokens",
        "state.predicted_tpot_ms",
    ),
    Mutant(
        "a sum that is no number goes first",
        "rules.py",
        "return math.inf if math.isnan(total) else total",
        "return 0.0 if math.isnan(total) else total",
    ),
    Mutant("a location is its first backend only", "document.py", "if place is location]", "if place is location][:1]"),
    Mutant(
        "backends that prefer omits are dropped",
        "load.py",
        "return (*targets, *(name for name in self._backends if name not in targets))",
        "return targets",
    ),
    Mutant(
        "a crash in YAML escapes",
        "yamltext.py",
        "    except yaml.YAMLError as error:\n        _add_yaml_error",
        "    except ZeroDivisionError as error:\n        _add_yaml_error",
    ),
    Mutant(
        "places are off by one",
        "source.py",
        'return self.text.count("\\n", 0, offset) + 1,',
        'return self.text.count("\\n", 0, offset) + 2,',
    ),
)
