"""Takes private values out of records by the privacy guard that also clears requests: same detectors, same pseudonyms.

Each record is to the guard what a request is: a value that is found in one of its texts is replaced in all of them, in
every spelling, and the result is scanned once more. A record about which the guard is in doubt is dropped.

Pseudonyms are the same at each run, so that steps can be repeated: they are drawn from a stream keyed by the seed and
by the record without its values. No value enters the key, so the pseudonym of a value tells nothing about it. Each
record has pseudonyms of its own: two records about one person cannot be joined by them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Final

from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import Policy, TagRule, builtin_policy, load_policy
from hybrid_llm.policies.document import PSEUDONYMISE
from hybrid_llm.policies.load import EDGE_AND_CLOUD
from hybrid_llm.prepare.data.figures import Figures
from hybrid_llm.prepare.data.folder import DataFormat
from hybrid_llm.prepare.data.records import Record
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from hybrid_llm.router.privacy.detectors import DETECTORS, Detector
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.sessions import Lease, Sessions

_EVERYWHERE: Final = frozenset({Location.EDGE, Location.CLOUD})
_DEADLINE_S: Final = 3600.0
_FIRST: Final = b"0"


class Private(StrEnum):
    """What is done to private values."""

    KEEP = "keep"
    DROP = "drop"
    REMOVE = "remove"
    PSEUDONYMISE = "pseudonymise"


class _Keyed(Sessions):
    """A table for each record, whose pseudonyms follow from *key*."""

    key: bytes = _FIRST

    def open(self, session_id: str | None, *, tenant: str | None = None) -> Lease:  # noqa: ARG002
        table = PseudonymTable(self.key)
        return Lease(table, table.wipe)


class RecordGuard:
    """Drops records with private values, or replaces the values, and counts them by kind; never shows a value."""

    def __init__(self, what: Private, detectors: Iterable[str], own: Sequence[Detector], seed: int) -> None:
        """Use the detectors of these names, built-in ones and those of *own*.

        Raises:
            ConfigError: there is no detector of a name, or no name.
        """
        names = tuple(dict.fromkeys(detectors))
        known = {**DETECTORS, **{each.name: each for each in own}}
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = f"there is no detector `{unknown[0]}`" if unknown else "no detector is named"
            raise ConfigError(f"`detectors`: {wrong}: name some of {', '.join(known)}")
        self._what, self._seed = what, seed
        self._sessions = _Keyed()
        self._guard = PrivacyGuard(own, sessions=self._sessions)
        self._policy = _policy(names)

    def applied(self, record: Record, figures: Figures) -> Record | None:
        """The record as it may be used, or None if it is dropped."""
        texts = (" ".join(record.texts),) if record.format is DataFormat.TAGGED else record.texts
        request = Request(messages=tuple([Message(role="user", content=text) for text in texts]), deadline=_DEADLINE_S)
        self._sessions.key = _FIRST
        seen = self._guard.assess(request, self._policy)
        try:
            return self._judged(record, texts, seen, figures)
        except PrivacyViolation:
            figures.drop("private_in_doubt")
            return None
        finally:
            self._guard.release(seen)

    def _judged(self, record: Record, texts: Sequence[str], seen: Assessment, figures: Figures) -> Record | None:
        if self._what is Private.DROP and seen.request.privacy:
            for tag in seen.request.privacy:
                figures.count("found", tag)
            figures.drop("private")
            return None
        if seen.blocked:
            figures.drop("private_in_doubt")
            return None
        if seen.pseudonymised is None or seen.lease is None:
            return record
        figures.count("records", "changed")
        for kind, number in seen.replaced.items():
            figures.count("replaced", kind.lower(), number)
        if self._what is Private.REMOVE:
            return _written(record, texts, _contents(seen), seen.lease.table, remove=True)
        self._sessions.key = self._key(_contents(seen))
        final = self._guard.assess(replace(seen.request, privacy=frozenset()), self._policy)
        try:
            if final.pseudonymised is None or final.lease is None:
                figures.drop("private_in_doubt")
                return None
            return _written(record, texts, _contents(final), final.lease.table, remove=False)
        finally:
            self._guard.release(final)

    def _key(self, texts: Iterable[str]) -> bytes:
        """A key that depends on the seed and on *texts*, in which fixed pseudonyms stand for the values."""
        digest = hashlib.blake2b(str(self._seed).encode(), digest_size=32)
        for text in texts:
            digest.update(hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest())
        return digest.digest()


def _policy(names: Sequence[str]) -> Policy:
    """A policy with one tag for each detector, so that the tags of a record are what was found."""
    tags = {name: TagRule(allow=_EVERYWHERE, to_cloud=frozenset({PSEUDONYMISE}), detect=(name,)) for name in names}
    return replace(builtin_policy("balanced"), name="data", tags=MappingProxyType(tags), rules=())


def _contents(seen: Assessment) -> tuple[str, ...]:
    assert seen.pseudonymised is not None
    return tuple([message.content for message in seen.pseudonymised.messages])


def _written(
    record: Record, before: Sequence[str], after: Sequence[str], table: PseudonymTable, *, remove: bool
) -> Record:
    if record.format is DataFormat.TAGGED:
        return _retagged(record, before[0], after[0], table, remove=remove)
    texts = [_without(text, table) for text in after] if remove else after
    return replace(record, texts=tuple(texts))


def _name(pseudonym: str, *, remove: bool) -> str:
    return f"[{pseudonym.partition('_')[0]}]" if remove else pseudonym


def _without(text: str, table: PseudonymTable) -> str:
    """*text* with `[EMAIL]` in place of each pseudonym of that type."""
    done, parts = 0, []
    for start, end in table.pseudonyms(text):
        parts += [text[done:start], _name(text[start:end], remove=True)]
        done = end
    return "".join([*parts, text[done:]])


def _retagged(record: Record, before: str, after: str, table: PseudonymTable, *, remove: bool) -> Record:
    """The record with one token, with the first tag, in place of those that a value touches."""
    names = dict(_values(before, after, table))
    tokens: list[str] = []
    tags: list[str] = []
    at = upto = 0
    for token, tag in zip(record.texts, record.labels, strict=True):
        end = at + len(token)
        for start, (stop, name) in names.items():
            if start < end and stop > at and start >= upto:
                tokens.append(_name(name, remove=remove))
                tags.append(tag)
                upto = stop
        if at >= upto:
            tokens.append(token)
            tags.append(tag)
        at = end + 1
    return replace(record, texts=tuple(tokens), labels=tuple(tags))


def _values(before: str, after: str, table: PseudonymTable) -> Iterator[tuple[int, tuple[int, str]]]:
    """Where each pseudonym of *after* has its value in *before*: its start, and its end with the pseudonym."""
    shift = 0
    for start, end in table.pseudonyms(after):
        entry, at = table.entry(after[start:end]), start - shift
        if entry is None or not before.startswith(entry.value, at):
            raise PrivacyViolation("a value and the tokens around it cannot be told apart", location="cloud")
        yield at, (at + len(entry.value), after[start:end])
        shift += end - start - len(entry.value)


def detectors_for(
    names: Sequence[str], policy: str | Path | None, config: Path | None
) -> tuple[tuple[str, ...], tuple[Detector, ...]]:
    """The names of the detectors to use, and those of them that a `hybrid.yaml` declares.

    Args:
        names: The detectors, if they are named one by one.
        policy: Else a policy whose tags name them; by default all detectors that are known.
        config: A `hybrid.yaml`.

    Raises:
        ConfigError: a file is not valid, or both *names* and *policy* are there.
    """
    if names and policy is not None:
        raise ConfigError("name either `detectors` or a `policy`")
    if config is None:
        if policy is None:
            return tuple(names or DETECTORS), ()
        return _named_by(_read_policy(policy, frozenset(DETECTORS), EDGE_AND_CLOUD)), ()
    from hybrid_llm.router.config import read_config

    read = read_config(config)
    own = read.open_detectors()
    known = frozenset({*DETECTORS, *(each.name for each in own)})
    if names:
        return tuple(names), own
    return _named_by(_read_policy(policy, known, read.locations)) if policy else tuple(sorted(known)), own


def _read_policy(policy: str | Path, known: frozenset[str], backends: Mapping[str, Location]) -> Policy:
    if isinstance(policy, str):
        return builtin_policy(policy, backends, detectors=known)
    return load_policy(policy, backends=backends, detectors=known)


def _named_by(policy: Policy) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for tag in policy.tags.values() for name in tag.detect))
