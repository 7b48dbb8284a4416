"""Loads policies: read, check, compile, try once; everything that is wrong with a file is reported at once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final

from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.policies.document import DETECTOR, POLICY, TARGET, Document, RuleDraft, backends_named
from hybrid_llm.policies.language.check import Checker
from hybrid_llm.policies.language.compile import check_constants
from hybrid_llm.policies.language.parser import parse
from hybrid_llm.policies.language.schema import KNOWN_DETECTORS, Schema
from hybrid_llm.policies.language.types import Node
from hybrid_llm.policies.lint.findings import Finding, check_guards, examine_rules, names_that_leave, unused_tags
from hybrid_llm.policies.policy import Policy, Rule
from hybrid_llm.policies.reader.fields import read_document, read_text
from hybrid_llm.policies.reader.source import Fault, Faults, did_you_mean
from hybrid_llm.policies.reader.yamltext import Scalar

_log = logging.getLogger("hybrid_llm.policies")
EDGE_AND_CLOUD: Final[Mapping[str, Location]] = MappingProxyType({"edge": Location.EDGE, "cloud": Location.CLOUD})
_ROOTS: Final = frozenset({"request", "device", "network", "budget", "objectives"})


def load_policy(
    path: str | Path, backends: Mapping[str, Location] = EDGE_AND_CLOUD, *, detectors: frozenset[str] = KNOWN_DETECTORS
) -> Policy:
    """Load the policy in the file at *path*, and log its warnings.

    Args:
        path: The file.
        backends: The backends that rules may name, in the order of `prefer` without a rule, and where they run.
        detectors: The detectors that tags may name.

    Raises:
        PolicyError: the file cannot be read or is not a valid policy; `.errors` has everything that is wrong.
    """
    policy = read_policy(Path(path), backends, detectors=detectors)
    for warning in policy.warnings:
        _log.warning("%s", warning)
    return policy


def read_policy(
    path: Path, backends: Mapping[str, Location] = EDGE_AND_CLOUD, *, detectors: frozenset[str] = KNOWN_DETECTORS
) -> Policy:
    """Load a policy without logging its warnings. Arguments and errors are those of `load_policy`."""
    text = read_text(path, "the policy", PolicyError)
    return parse_policy(text, path=str(path), backends=backends, detectors=detectors)


def builtin_names() -> tuple[str, ...]:
    """The names of the built-in policies."""
    found = (item.name for item in (files("hybrid_llm.policies") / "builtin").iterdir())
    return tuple(sorted(name[:-5] for name in found if name.endswith(".yaml") and not name.endswith(".test.yaml")))


def builtin_policy(
    name: str, backends: Mapping[str, Location] = EDGE_AND_CLOUD, *, detectors: frozenset[str] = KNOWN_DETECTORS
) -> Policy:
    """Load the built-in policy *name*.

    Raises:
        ConfigError: there is no such policy.
        PolicyError: it names a detector that is not among *detectors*.
    """
    if name not in builtin_names():
        raise ConfigError(f"there is no built-in policy {name!r}: {did_you_mean(name, builtin_names())}")
    text = (files("hybrid_llm.policies") / "builtin" / f"{name}.yaml").read_text("utf-8")
    return parse_policy(text, path=f"builtin/{name}.yaml", backends=backends, detectors=detectors)


def parse_policy(
    text: str,
    *,
    path: str = "<policy>",
    backends: Mapping[str, Location] = EDGE_AND_CLOUD,
    detectors: frozenset[str] = KNOWN_DETECTORS,
) -> Policy:
    """Load the policy in *text*; *path* names it in errors. The other arguments are those of `load_policy`.

    Raises:
        PolicyError: the text is not a valid policy; `.errors` has everything that is wrong, with its position.
        ConfigError: a backend has the name of a group of signals, or of a location where it does not run.
    """
    _check_names(backends)
    faults = Faults(text, path)
    names = {DETECTOR.words: detectors, TARGET.words: {*backends, *Location}}
    document = read_document(text, POLICY, faults, names)
    if document is None:
        faults.check()
    schema = Schema(backends, document.objectives)
    checker = Checker(schema, frozenset(document.tags), document.objectives.currency)
    rules = _Builder(document, schema, faults, backends, checker).rules()
    faults.check()
    policy = Policy(
        name=document.name,
        digest=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16],
        text=text,
        tags=MappingProxyType({name: tag.with_available(detectors) for name, tag in document.tags.items()}),
        objectives=document.objectives,
        resilience=document.resilience,
        rules=rules,
        backends=MappingProxyType(dict(backends)),
        schema=schema,
        preferred=frozenset(name for draft in document.rules if draft.kind == "prefer" for name in draft.targets),
        warnings=faults.warnings,
    )
    # What was compiled runs once before it decides over requests.
    states = {name: BackendState(name=name, location=location) for name, location in backends.items()}
    policy.decide(RequestMetadata(), Signals(backends=states))
    return policy


def _check_names(backends: Mapping[str, Location]) -> None:
    for name, location in backends.items():
        if name in _ROOTS:
            raise ConfigError(f"a backend cannot be named {name!r}: policies read signals under this name")
        if name in set(Location) and name != location.value:
            raise ConfigError(f"a backend named {name!r} cannot run on {location.value}")


@dataclass(frozen=True, slots=True)
class _Builder:
    """Parses, type-checks and lints the conditions of a policy, and makes its rules."""

    document: Document
    schema: Schema
    faults: Faults
    backends: Mapping[str, Location]
    checker: Checker

    def rules(self) -> tuple[Rule, ...]:
        rules = tuple(map(self._rule, self.document.rules))
        drafts = {draft.index: draft for draft in self.document.rules}
        whole = [rule for rule in rules if rule.condition is not None or drafts[rule.index].when is None]
        for finding in examine_rules(whole, self.schema):
            self._report(finding, drafts[finding.rule])
        self._check_tags(whole if len(whole) == len(rules) else None)
        return rules

    def _check_tags(self, rules: Sequence[Rule] | None) -> None:
        """Warn of tags; without *rules*, which have errors, not of unused ones."""
        tags = self.document.tags
        for name in unused_tags(tags, rules) if rules is not None else ():
            message = f"no detector sets the tag `{name}` and no rule reads it: only an app can set it"
            hint = "name its detectors, detect: [...], or make sure that the app sets it"
            self.faults.warn(message, tags[name].offset, hint, advice=True)
        for name in names_that_leave(tags, self.backends.values()):
            message = f"`{name}` accepts undetected names, and none of its detectors finds any: names leave as they are"
            hint = "add a model for names, detect_if_available: [names], or remove `accept_undetected_names`"
            self.faults.warn(message, tags[name].offset, hint, advice=True)

    def _report(self, finding: Finding, draft: RuleDraft) -> None:
        report = self.faults.add if finding.sure else self.faults.warn
        offset = draft.offset
        if draft.when is not None and finding.offset is not None:
            offset = draft.when.at(finding.offset)
        report(finding.message, offset, finding.hint)

    def _rule(self, draft: RuleDraft) -> Rule:
        text = draft.when.text if draft.when is not None else ""
        targets = backends_named(draft.targets, self.backends)
        return Rule(
            index=draft.index,
            kind=draft.kind,
            place=self.faults.label(draft.offset),
            targets=targets if draft.kind == "exclude" else self._completed(targets),
            because=draft.because or " ".join(text.split()) or "always",
            text=text,
            condition=self._condition(draft.when) if draft.when is not None else None,
            weights=draft.rank,
        )

    def _completed(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """All backends: those that a `prefer` does not name go last, in the order in which they are declared."""
        return (*targets, *(name for name in self.backends if name not in targets))

    def _condition(self, when: Scalar) -> Node | None:
        def report(message: str, offset: int, hint: str | None) -> None:
            self.faults.add(message, when.at(offset), hint)

        before = self.faults.count
        try:
            typed = self.checker.condition(parse(when.text), report)
        except Fault as fault:
            report(fault.message, fault.offset, fault.hint)
            return None
        check_guards(typed, self.schema, report)
        if self.faults.count == before:
            check_constants(typed, self.schema, report)
        return typed if self.faults.count == before else None
