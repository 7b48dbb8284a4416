"""Checks a log from its first record to its last, and names each that is not what its writer signed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hybrid_llm.backends.audit.entries import AuditEntry
from hybrid_llm.backends.audit.heads import SignedHead
from hybrid_llm.backends.audit.keys import AuditPublicKey
from hybrid_llm.backends.audit.log import AuditLogs, AuditRecord
from hybrid_llm.backends.audit.tree import MerkleTree, leaf_hash

Fault = Literal["changed", "removed", "reordered", "truncated", "added", "rewritten"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is wrong with the records from *first* to *last*, whose numbers count from 0."""

    fault: Fault
    first: int
    last: int
    detail: str

    def __str__(self) -> str:
        which = f"record {self.first}" if self.first == self.last else f"records {self.first} to {self.last}"
        return f"{which}: {self.fault}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came of checking one log."""

    log: str
    records: int
    findings: tuple[Finding, ...] = ()
    unfinished: tuple[str, ...] = ()
    """Calls that began and have no end: they run, or their writer was killed."""
    lost: int = 0
    """Records that their writer could not write, and said so."""
    head: SignedHead | None = None


def verify(logs: AuditLogs, log: str, keys: Sequence[AuditPublicKey], known: Sequence[SignedHead] = ()) -> Verification:
    """Check *log*.

    Args:
        keys: The public keys that may have signed it.
        known: Heads of this log from outside it. Without one, records cut off at the end together with what the log
            states of its size are not missed.
    """
    heads = [head for head in known if head.log == log]
    check = _Check(log, {key.id: key for key in keys}, frozenset(head.size for head in heads))
    for record in logs.records(log):
        check.take(record)
    check.end(logs.stated_size(log), heads)
    return Verification(
        log=log,
        records=check.count,
        findings=tuple(check.findings),
        unfinished=tuple(check.open),
        lost=check.lost,
        head=logs.head(log),
    )


@dataclass(slots=True)
class _Check:
    """The state of a check: the tree while no fault was found, and what is expected next."""

    log: str
    keys: Mapping[str, AuditPublicKey]
    sizes: frozenset[int]
    """Those of the heads from outside."""
    tree: MerkleTree | None = field(default_factory=MerkleTree)
    count: int = 0
    expected: int = 0
    findings: list[Finding] = field(default_factory=list)
    open: dict[str, None] = field(default_factory=dict)
    lost: int = 0
    roots: dict[int, bytes] = field(default_factory=dict)
    """Size -> the root that was signed in the log, for those sizes."""

    def take(self, record: AuditRecord) -> None:
        """Check *record*, the next of the log."""
        self.count += 1
        if record.number > self.expected:
            self._fault("removed", self.expected, record.number - 1, "there is no such record")
        self.expected = record.number + 1
        leaf = leaf_hash(record.entry)
        if not self._signed(record.head) or leaf != record.head.leaf:
            self._name(record, leaf)
            return
        if record.head.size in self.sizes:
            self.roots[record.head.size] = record.head.root
        entry, log, number = AuditEntry.decode(record.entry)
        self._follow(record, leaf, None if (log, number) == (self.log, record.number) else number)
        self._read(entry)

    def end(self, stated: int, known: Sequence[SignedHead]) -> None:
        """The log has no more records; it states that it has *stated*, and *known* heads are from outside."""
        if stated > self.expected:
            self._fault("truncated", self.expected, stated - 1, "the log states that it has them")
        for head in known:
            if not self._signed(head):
                self._fault("added", head.size - 1, head.size - 1, "the given head has no valid signature")
            elif head.size > self.expected:
                self._fault("truncated", self.expected, head.size - 1, "a head that was given covers them")
            elif self.roots.get(head.size) not in (None, head.root):
                self._fault("rewritten", 0, head.size - 1, "they are not those that the given head covers")

    def _signed(self, head: SignedHead) -> bool:
        key = self.keys.get(head.key)
        return key is not None and key.signed(head)

    def _name(self, record: AuditRecord, leaf: bytes) -> None:
        """Why *record*, whose signature or hash is wrong, is so."""
        number = record.number
        if record.head.key not in self.keys:
            self._fault("added", number, number, f"it is signed with the key {record.head.key}, which was not given")
        elif (moved := self._moved(record)) is not None:
            self._fault("reordered", number, number, f"this is record {moved}")
        elif leaf != record.head.leaf:
            self._fault("changed", number, number, "its hash is another one")
        else:
            self._fault("changed", number, number, "its signature does not fit")

    def _moved(self, record: AuditRecord) -> int | None:
        """The number in the entry of *record*, if that is another one."""
        try:
            _, log, number = AuditEntry.decode(record.entry)
        except ValueError:
            return None
        return number if (log, number) != (self.log, record.number) else None

    def _follow(self, record: AuditRecord, leaf: bytes, moved: int | None) -> None:
        """Add a record with a valid signature to the tree, which must have the root that was signed."""
        if moved is not None:
            self._fault("reordered", record.number, record.number, f"this is record {moved}")
        if self.tree is None:  # faults before: what each record says is signed, but not what was between them
            return
        self.tree.append(leaf)
        if self.tree.root != record.head.root:
            self._fault("rewritten", 0, record.number, "the signed root is of other records than those before it")

    def _read(self, entry: AuditEntry) -> None:
        self.lost += entry.lost
        if entry.event == "begin":
            self.open[entry.call] = None
        elif entry.event == "end":
            self.open.pop(entry.call, None)

    def _fault(self, fault: Fault, first: int, last: int, detail: str) -> None:
        self.tree = None
        self.findings.append(Finding(fault=fault, first=first, last=last, detail=detail))


def entries(logs: AuditLogs, log: str) -> Iterator[tuple[int, AuditEntry]]:
    """Number and entry of each record of *log* that can be read, unverified."""
    for record in logs.records(log):
        try:
            yield record.number, AuditEntry.decode(record.entry)[0]
        except ValueError:
            continue
