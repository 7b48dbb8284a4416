"""Lints a policy: unguarded reads of signals that may be absent, rules without effect, and tags that are
unused or let names leave.

What is certainly a mistake is an error, the rest a warning; both name the rule that makes another one useless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hybrid_llm.core.request import Location
from hybrid_llm.policies.document import TagRule
from hybrid_llm.policies.language import types
from hybrid_llm.policies.language.check import Report
from hybrid_llm.policies.language.compile import is_constant
from hybrid_llm.policies.language.schema import KNOWN_DETECTORS, Schema
from hybrid_llm.policies.language.types import Node
from hybrid_llm.policies.lint.analysis import Claim, Outcome, Solver
from hybrid_llm.policies.policy import Rule

_Keys = frozenset[str]
_NONE: _Keys = frozenset()


@dataclass(frozen=True, slots=True)
class _Known:
    """The signals that are certainly present if a condition is true, and if it is false."""

    true: _Keys = _NONE
    false: _Keys = _NONE


def check_guards(node: Node, schema: Schema, report: Report) -> None:
    """Report every read in *node* of a field that may be absent and is not guarded by has()."""
    _Flow(schema, report).visit(node, _NONE)


@dataclass(slots=True)
class _Flow:
    schema: Schema
    report: Report
    reported: set[str] = field(default_factory=set)

    def visit(self, node: Node, known: _Keys) -> _Known:
        match node:
            case types.Field():
                self._read(node, known)
                return _Known()
            case types.Has():
                return _Known(true=frozenset({node.field.key}))
            case types.Unary(op="!"):
                inner = self.visit(node.item, known)
                return _Known(true=inner.false, false=inner.true)
            case types.Logic():
                return self._logic(node, known)
            case types.Conditional():
                return self._conditional(node, known)
            case _:
                for part in types.children(node):
                    self.visit(part, known)
                return _Known()

    def _logic(self, node: types.Logic, known: _Keys) -> _Known:
        """`a && b` is true when both are, and false when a is false, or a is true and b false; `||` mirrors it."""
        conjunction = node.op == "&&"
        passed = _NONE
        stopped: _Keys | None = None
        for item in node.items:
            found = self.visit(item, known | passed)
            going, stopping = (found.true, found.false) if conjunction else (found.false, found.true)
            here = passed | stopping
            stopped = here if stopped is None else stopped & here
            passed |= going
        stopped = stopped or _NONE
        return _Known(true=passed, false=stopped) if conjunction else _Known(true=stopped, false=passed)

    def _conditional(self, node: types.Conditional, known: _Keys) -> _Known:
        condition = self.visit(node.condition, known)
        then = self.visit(node.then, known | condition.true)
        otherwise = self.visit(node.otherwise, known | condition.false)
        return _Known(
            true=(condition.true | then.true) & (condition.false | otherwise.true),
            false=(condition.true | then.false) & (condition.false | otherwise.false),
        )

    def _read(self, node: types.Field, known: _Keys) -> None:
        if not node.key or node.key in known or node.key in self.reported:
            return
        spec = self.schema.spec(node)
        if not spec.optional:
            return
        self.reported.add(node.key)
        if spec.root == "objectives":
            name = node.path[1].removesuffix("_ms")
            message, hint = f"this policy sets no `{node.name}`", f"add `{name}` under `objectives:`"
        else:
            message = f"`{node.name}` may be absent here and is read without a guard"
            hint = f"write has({node.name}) && ... in front of it"
        self.report(message, node.start, hint)


_OPEN_WORD = "public"
"""The tag for requests with nothing private: if it allows every location, no rule or detector needs to use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding. *offset* is in the rule's condition, None for the whole rule; *sure* makes it an error."""

    rule: int
    message: str
    hint: str | None = None
    offset: int | None = None
    sure: bool = False


def examine_rules(rules: Sequence[Rule], schema: Schema) -> Iterator[Finding]:
    """Lint *rules*, in the order of the file: at most one finding for each rule and each part of its condition."""
    examiner = _Examiner(schema)
    for rule in rules:
        if rule.kind != "exclude" or rule.targets:
            yield from examiner.examine(rule)


class _Examiner:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._solver = Solver(schema)
        self._excludes: list[Rule] = []
        self._orders: list[Rule] = []

    def examine(self, rule: Rule) -> Iterator[Finding]:
        before = self._excludes if rule.kind == "exclude" else self._orders
        useless = self._never(rule) or (self._repeats(rule) if rule.kind == "exclude" else self._unreached(rule))
        if useless is None or not useless.sure:
            before.append(rule)
        if useless is not None:
            yield useless
        else:
            yield from self._always(rule)

    def _possible(self, *claims: tuple[Rule, Outcome]) -> bool:
        """Whether the rules can have these outcomes; a rule without a condition is always true."""
        claimed: list[Claim] = []
        for rule, outcome in claims:
            if rule.condition is not None:
                claimed.append((rule.condition, outcome))
            elif outcome in {Outcome.FALSE, Outcome.NOT_TRUE}:
                return False
        return self._solver.possible(*claimed)

    def _never(self, rule: Rule) -> Finding | None:
        if rule.condition is None or self._possible((rule, Outcome.TRUE)):
            return None
        if is_constant(rule.condition, self._schema):
            message, hint = "this rule never matches: the condition is always false", None
        else:
            clash = self._solver.clash((rule.condition, Outcome.TRUE))
            what = f"no value of `{clash}` fits all of it" if _is_name(clash) else "its parts contradict each other"
            message, hint = f"this rule never matches: {what}", "correct the condition, or remove the rule"
        return Finding(rule=rule.index, message=message, hint=hint, offset=rule.condition.start, sure=True)

    def _unreached(self, rule: Rule) -> Finding | None:
        """A rule that orders is reached only if none before it is true."""
        if not self._orders:
            return None
        if not self._possible((rule, Outcome.TRUE), *((one, Outcome.NOT_TRUE) for one in self._orders)):
            hint = "move it up, or remove it"
            return Finding(rule=rule.index, message=self._why_unreached(rule), hint=hint, sure=True)
        weak = rule.condition is not None
        if weak and not self._possible((rule, Outcome.TRUE), *((one, Outcome.FALSE) for one in self._orders)):
            message = "this rule is reached only where a signal that an earlier rule reads cannot be read"
            return Finding(rule=rule.index, message=message, hint="move it up, or leave its `when` out")
        return None

    def _why_unreached(self, rule: Rule) -> str:
        for one in self._orders:
            if not self._possible((one, Outcome.NOT_TRUE)):
                return f"this rule is never reached: {one.label} always matches"
        for one in self._orders:
            if not self._possible((rule, Outcome.TRUE), (one, Outcome.NOT_TRUE)):
                return f"this rule is never reached: {one.label} matches whenever this one does"
        return "this rule is never reached: wherever it could match, one before it does"

    def _repeats(self, rule: Rule) -> Finding | None:
        """A hard rule adds nothing if an earlier one excludes the same backends whenever it would."""
        for one in self._excludes:
            if set(rule.targets) - set(one.targets) or self._possible((rule, Outcome.NOT_FALSE), (one, Outcome.FALSE)):
                continue
            same = set(rule.targets) == set(one.targets) and not self._possible(
                (one, Outcome.NOT_FALSE), (rule, Outcome.FALSE)
            )
            if same:
                message, hint = f"this rule repeats {one.label}", "remove one of the two"
            else:
                message = f"this rule adds nothing: {one.label} excludes the same backends whenever this one would"
                hint = "remove it, or correct one of the two"
            return Finding(rule=rule.index, message=message, hint=hint, sure=same)
        return None

    def _always(self, rule: Rule) -> Iterator[Finding]:
        """Report a condition, and parts of it, that always or never hold."""
        condition = rule.condition
        if condition is None or is_constant(condition, self._schema):
            return
        if not self._possible((rule, Outcome.FALSE)):
            failing = self._possible((rule, Outcome.NOT_TRUE))
            message = f"this condition always holds{', unless a signal cannot be read' if failing else ''}"
            hint = "leave `when` out, or correct it"
            yield Finding(rule=rule.index, message=message, hint=hint, offset=condition.start)
            return
        for part in _parts(condition):
            if is_constant(part, self._schema):
                continue
            never = not self._solver.possible((part, Outcome.TRUE))
            if never or not self._solver.possible((part, Outcome.FALSE)):
                message, hint = f"this part {'never' if never else 'always'} holds", "correct it, or remove it"
                yield Finding(rule=rule.index, message=message, hint=hint, offset=part.start)


def _parts(node: Node) -> Iterator[Node]:
    """What `&&`, `||`, `!` and `?:` combine, the outermost first."""
    if isinstance(node, types.Logic):
        for item in node.items:
            yield item
            yield from _parts(item)
    elif isinstance(node, types.Unary) and node.op == "!":
        yield from _parts(node.item)
    elif isinstance(node, types.Conditional):
        yield node.condition
        for child in types.children(node):
            yield from _parts(child)


def _is_name(subject: str) -> bool:
    return all(part.isidentifier() for part in subject.split(".")) and "." in subject


def unused_tags(tags: Mapping[str, TagRule], rules: Sequence[Rule]) -> Iterator[str]:
    """The tags that no detector sets and no rule reads: only an app can set them.

    `public` is not reported if it allows every location: it marks requests with nothing private.
    """
    read = {text for rule in rules if rule.condition is not None for text in _texts_beside_tags(rule.condition)}
    for name, tag in tags.items():
        open_word = name == _OPEN_WORD and tag.allow == frozenset(Location)
        if not tag.detect and name not in read and not open_word:
            yield name


def names_that_leave(tags: Mapping[str, TagRule], places: Collection[Location]) -> Iterator[str]:
    """The tags that let names of people leave as they are: an app may declare them, and no detector finds names.

    Detectors other than the built-in ones are assumed to find names; none is needed where no cloud is in *places*.
    """
    for name, tag in tags.items():
        accepts = tag.pseudonymise and tag.accept_undetected_names and Location.CLOUD in tag.allow.intersection(places)
        if accepts and KNOWN_DETECTORS.issuperset((*tag.detect, *tag.detect_if_available)):
            yield name


def _texts_beside_tags(node: Node) -> Iterator[str]:
    for part in types.walk(node):
        sides = types.children(part) if isinstance(part, types.Binary) else ()
        if any(getattr(side, "key", "") == "request.tags" for side in sides):
            yield from (text for side in sides for text, _ in types.texts_of(side))
