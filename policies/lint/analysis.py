"""Proves that conditions cannot have certain outcomes together, by searching for a request and signals that give them.

Sound, not complete: what it calls impossible is impossible for all signals within the ranges of their records, signals
that cannot be read included. What it cannot prove, it calls possible.

The search is an analytic tableau (Smullyan, *First-Order Logic*, 1968) over Kleene's three values, in which CEL's
conditions are true, false, or fail; its leaves are sets of values per field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag, auto

from hybrid_llm.policies.language.compile import constant_value, is_constant
from hybrid_llm.policies.language.schema import Schema
from hybrid_llm.policies.language.types import BOOL, Binary, Conditional, Logic, Node, Unary
from hybrid_llm.policies.lint.atoms import Atom, AtomReader, Domain

_MOST_STEPS = 5000
_MOST_IN_ALL = 400_000
"""Steps for one question, and for all questions to one solver: about 10 ms and 1 s."""


class Outcome(Flag):
    """What a condition may come to. A condition whose evaluation fails is neither true nor false."""

    TRUE = auto()
    FALSE = auto()
    FAILS = auto()
    NOT_TRUE = FALSE | FAILS
    NOT_FALSE = TRUE | FAILS

    @property
    def mirrored(self) -> Outcome:
        """The outcome of `!a` where this is that of `a`."""
        return (Outcome.FALSE if Outcome.TRUE in self else Outcome.TRUE) | (self & Outcome.FAILS)


Claim = tuple[Node, Outcome]
"""A checked condition of type bool, and the outcome that is claimed for it."""


class Solver:
    """Decides whether conditions of one policy can have given outcomes together."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._reader = AtomReader(schema)
        self._steps = 0
        self._read: dict[tuple[int, Outcome], tuple[Node, _Fork | tuple[str, Domain]]] = {}

    def possible(self, *claims: Claim) -> bool:
        """Whether one request and its signals can make every claim true; False is a proof that none can."""
        return self._steps > _MOST_IN_ALL or self._search(_Search(), {}, claims)

    def clash(self, *claims: Claim) -> str:
        """The one subject that makes claims impossible together; empty if there are several, or none."""
        search = _Search()
        possible = self._search(search, {}, claims)
        return next(iter(search.clashes)) if not possible and len(search.clashes) == 1 else ""

    def _search(self, search: _Search, world: Mapping[str, Domain], todo: tuple[Claim | _Fork, ...]) -> bool:
        """Settle claims with one alternative; then try each alternative of the claim with the fewest."""
        here = dict(world)
        forks: list[_Fork] = []
        stack = list(todo)
        while stack:
            search.steps += 1
            self._steps += 1
            item = stack.pop()
            step = item if isinstance(item, _Fork) else self._step(*item)
            if not isinstance(step, _Fork):
                if not search.narrow(here, *step):
                    return False
            elif len(step.alternatives) == 1:
                stack.extend(step.alternatives[0])
            else:
                forks.append(step)
        if not forks or search.steps > _MOST_STEPS or self._steps > _MOST_IN_ALL:
            return True
        forks.sort(key=lambda fork: len(fork.alternatives))
        rest = tuple(forks[1:])
        return any(self._search(search, here, (*alternative, *rest)) for alternative in forks[0].alternatives)

    def _step(self, node: Node, outcome: Outcome) -> _Fork | tuple[str, Domain]:
        """The alternatives for *node* to have *outcome*; for an atom, its subject and the values that it must have."""
        known = self._read.get((id(node), outcome))
        if known is None:  # the node is stored too, so that no other node can get its id
            known = self._read[(id(node), outcome)] = (node, self._fresh_step(node, outcome))
        return known[1]

    def _fresh_step(self, node: Node, outcome: Outcome) -> _Fork | tuple[str, Domain]:
        if is_constant(node, self._schema):
            value = Outcome.TRUE if constant_value(node, self._schema) is True else Outcome.FALSE
            return _Fork(((),)) if value in outcome else _Fork(())
        match node:
            case Unary(op="!"):
                return _Fork((((node.item, outcome.mirrored),),))
            case Logic():
                parts = tuple((item, outcome) for item in node.items)
                # `a && b` is true, or is not false, if both sides are; it is false, or is not true, if one side is.
                together = (node.op == "&&") is (Outcome.TRUE in outcome)
                return _Fork((parts,)) if together else _Fork(tuple((part,) for part in parts))
            case Conditional():
                return _Fork(_choices(node, outcome))
            case Binary(op="==" | "!=") if node.left.type == BOOL:
                return _Fork(_equalities(node, outcome))
            case _:
                return _asked(self._reader.read(node), outcome)


@dataclass(frozen=True, slots=True)
class _Fork:
    """Alternatives, each a list of claims that must all hold; without any, there is none."""

    alternatives: tuple[tuple[Claim, ...], ...]


@dataclass(slots=True)
class _Search:
    steps: int = 0
    clashes: set[str] = field(default_factory=set)

    def narrow(self, world: dict[str, Domain], subject: str, domain: Domain) -> bool:
        """Restrict *subject* to *domain*; False if no value is left."""
        known = world.get(subject)
        met = domain if known is None else known.meet(domain)
        world[subject] = met
        if met.empty:
            self.clashes.add(subject)
        return not met.empty


def _asked(atom: Atom, outcome: Outcome) -> tuple[str, Domain]:
    domain = atom.true if Outcome.TRUE in outcome else atom.false
    return atom.subject, domain.or_failing(atom.failing) if Outcome.FAILS in outcome else domain


def _fails(node: Node) -> tuple[Claim, Claim]:
    return (node, Outcome.NOT_TRUE), (node, Outcome.NOT_FALSE)


def _choices(node: Conditional, outcome: Outcome) -> tuple[tuple[Claim, ...], ...]:
    alternatives: tuple[tuple[Claim, ...], ...] = (
        ((node.condition, Outcome.TRUE), (node.then, outcome)),
        ((node.condition, Outcome.FALSE), (node.otherwise, outcome)),
    )
    return (*alternatives, _fails(node.condition)) if Outcome.FAILS in outcome else alternatives


def _equalities(node: Binary, outcome: Outcome) -> tuple[tuple[Claim, ...], ...]:
    """`==` between two bools is strict: it fails if either side fails."""
    equal = (node.op == "==") is (Outcome.TRUE in outcome)
    alternatives: tuple[tuple[Claim, ...], ...] = tuple(
        ((node.left, left), (node.right, left if equal else left.mirrored)) for left in (Outcome.TRUE, Outcome.FALSE)
    )
    return (*alternatives, _fails(node.left), _fails(node.right)) if Outcome.FAILS in outcome else alternatives
