"""From the text of a policy to a `Policy`: read, check, compile, try once; every fault of the file is told at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from hybrid_llm.policies.check import Checker
from hybrid_llm.policies.constants import check_constants, constant_value, is_constant
from hybrid_llm.policies.document import Document, RuleDraft, read_document
from hybrid_llm.policies.guards import check_guards
from hybrid_llm.policies.nodes import BOOL, Node
from hybrid_llm.policies.parser import parse
from hybrid_llm.policies.policy import Policy, Terms
from hybrid_llm.policies.rules import Rule
from hybrid_llm.policies.schema import KNOWN_DETECTORS, Schema
from hybrid_llm.policies.source import Fault, Faults, Source, did_you_mean
from hybrid_llm.policies.yamltext import Scalar, read_yaml
from hybrid_llm.router.errors import ConfigError, PolicyError
from hybrid_llm.router.signals import BackendState, Signals
from hybrid_llm.router.types import Location, Request

__all__ = ["builtin_names", "builtin_policy", "load_policy", "parse_policy"]

_BACKENDS: Mapping[str, Location] = MappingProxyType({"edge": Location.EDGE, "cloud": Location.CLOUD})
_ROOTS = frozenset({"request", "device", "network", "budget", "objectives"})


def load_policy(
    path: Path, backends: Mapping[str, Location] = _BACKENDS, *, detectors: frozenset[str] = KNOWN_DETECTORS
) -> Policy:
    """The policy in the file at *path*, checked against *backends* and *detectors*.

    Raises:
        PolicyError: the file cannot be read or is not a policy; `.errors` has every fault.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise PolicyError(f"{path}: the policy cannot be read: {error.strerror}", path=str(path)) from error
    except UnicodeDecodeError as error:
        message = f"{path}: the policy is not UTF-8 text (byte {error.start})"
        raise PolicyError(message, path=str(path), hint="save the file as UTF-8") from error
    return parse_policy(text, path=str(path), backends=backends, detectors=detectors)


def builtin_names() -> tuple[str, ...]:
    """The names of the policies that come with the package."""
    found = (item.name for item in (files("hybrid_llm.policies") / "builtin").iterdir())
    return tuple(sorted(name[:-5] for name in found if name.endswith(".yaml") and not name.endswith(".test.yaml")))


def builtin_policy(
    name: str, backends: Mapping[str, Location] = _BACKENDS, *, detectors: frozenset[str] = KNOWN_DETECTORS
) -> Policy:
    """The policy *name* that comes with the package.

    Raises:
        ConfigError: there is none of this name.
        PolicyError: *detectors* lack one that it names.
    """
    if name not in builtin_names():
        raise ConfigError(f"there is no built-in policy {name!r}: {did_you_mean(name, builtin_names())}")
    text = (files("hybrid_llm.policies") / "builtin" / f"{name}.yaml").read_text("utf-8")
    return parse_policy(text, path=f"builtin/{name}.yaml", backends=backends, detectors=detectors)


def parse_policy(
    text: str,
    *,
    path: str = "<policy>",
    backends: Mapping[str, Location] = _BACKENDS,
    detectors: frozenset[str] = KNOWN_DETECTORS,
) -> Policy:
    """The policy in *text*; *path* names it in errors, *backends* are those that rules may name, in order.

    Raises:
        PolicyError: it is not a policy; `.errors` has every fault, and its text shows them with their places.
        ConfigError: a backend has a name that an expression could not tell from a signal.
    """
    _check_names(backends)
    source = Source(text, path)
    faults = Faults(source)
    root = read_yaml(text, faults)
    if root is None:
        faults.check()
        raise AssertionError("a text that cannot be read has a fault")
    document = read_document(root, faults, backends, detectors)
    schema = Schema(backends, document.objectives)
    rules = tuple(_Builder(document, schema, source, faults, backends).rules())
    faults.check()
    policy = Policy(
        Terms(
            name=document.name,
            digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16],
            version=document.version,
            tags=document.tags,
            objectives=document.objectives,
            resilience=document.resilience,
            rules=rules,
            backends=MappingProxyType(dict(backends)),
            schema=schema,
        )
    )
    _try_once(policy, backends)
    return policy


def _check_names(backends: Mapping[str, Location]) -> None:
    for name, place in backends.items():
        if name in _ROOTS:
            raise ConfigError(f"a backend cannot be named {name!r}: policies read signals under this name")
        if name in {location.value for location in Location} and name != place.value:
            raise ConfigError(f"a backend named {name!r} cannot run on {place.value}")


def _try_once(policy: Policy, backends: Mapping[str, Location]) -> None:
    """A dry run: what is compiled must run before it is put in force."""
    states = {name: BackendState(name=name, location=place) for name, place in backends.items()}
    signals = Signals(backends=states)
    policy.decide(Request(messages=()), signals)


class _Builder:
    """Makes rules of drafts: parses, checks and guards each condition, and finds rules that can never matter."""

    def __init__(
        self, document: Document, schema: Schema, source: Source, faults: Faults, backends: Mapping[str, Location]
    ) -> None:
        self._document = document
        self._schema = schema
        self._source = source
        self._faults = faults
        self._backends = backends
        self._checker = Checker(schema, frozenset(document.tags), document.objectives.currency)
        self._final: RuleDraft | None = None

    def rules(self) -> Iterator[Rule]:
        for draft in self._document.rules:
            if draft.kind != "exclude" and self._final is not None:
                message = f"this rule is never reached: rules[{self._final.index}] always matches"
                self._faults.add(message, draft.offset, "move it up, or give that rule a `when`")
            yield self._rule(draft)

    def _rule(self, draft: RuleDraft) -> Rule:
        condition = self._condition(draft.when) if draft.when is not None else None
        always = draft.when is None or (condition is not None and self._constant(condition, draft.when) is True)
        if always and draft.kind != "exclude" and self._final is None:
            self._final = draft
        text = " ".join(draft.when.text.split()) if draft.when is not None else "always"
        return Rule(
            index=draft.index,
            kind=draft.kind,
            place=self._source.label(draft.offset),
            targets=draft.targets if draft.kind == "exclude" else self._completed(draft.targets),
            because=draft.because or text,
            text=draft.when.text if draft.when is not None else "",
            condition=condition,
            weights=draft.weights,
        )

    def _completed(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """Backends that a `prefer` does not name go last, in the order in which they are declared."""
        return (*targets, *(name for name in self._backends if name not in targets))

    def _condition(self, when: Scalar) -> Node | None:
        def report(message: str, offset: int, hint: str | None) -> None:
            self._faults.add(message, when.at(offset), hint)

        before = self._faults.count
        try:
            typed = self._checker.condition(parse(when.text), report)
        except Fault as fault:
            report(fault.message, fault.offset, fault.hint)
            return None
        check_guards(typed, self._schema, report)
        if self._faults.count == before:
            check_constants(typed, self._schema, report)
        return typed if self._faults.count == before else None

    def _constant(self, condition: Node, when: Scalar) -> object:
        """The value of a condition that reads nothing; None of one that does. One that is never true is a fault."""
        if not is_constant(condition, self._schema):
            return None
        try:
            value = constant_value(condition, self._schema)
        except ArithmeticError as error:
            self._faults.add(f"this always fails: {error}", when.at(condition.start))
            return None
        if value is False and condition.type == BOOL:
            self._faults.add("this rule never matches: the condition is always false", when.at(condition.start))
        return value
