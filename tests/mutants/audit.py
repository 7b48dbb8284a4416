"""Planted faults of the audit log: records that are not signed, not counted, not waited for, or not missed."""

from __future__ import annotations

from tests.mutants.changes import drop, never, swap
from tests.mutants.mutant import Mutant

_VERIFY = "hybrid_llm.backends.audit.verify"
_LOG = "hybrid_llm.backends.audit.log"
_WRITER = "hybrid_llm.backends.audit.writer"

MUTANTS = (
    Mutant(
        "the content of a record is not compared with its hash",
        f"{_VERIFY}:_Check.take",
        never("not self._signed(record.head) or leaf != record.head.leaf"),
    ),
    Mutant(
        "the signature does not cover the record",
        "hybrid_llm.backends.audit.heads:signed_bytes",
        swap("_LABEL + struct.pack('>I', len(name)) + name + head + leaf", "_LABEL + name + leaf"),
    ),
    Mutant("a gap between numbers is not missed", f"{_VERIFY}:_Check.take", never("record.number > self.expected")),
    Mutant("the end of the log is not missed", f"{_VERIFY}:_Check.end", never("stated > self.expected")),
    Mutant("a head from outside is not compared", f"{_VERIFY}:_Check.end", never("head.size > self.expected")),
    Mutant(
        "a leaf and a node are hashed alike",
        "hybrid_llm.backends.audit.tree:leaf_hash",
        swap("b'\\x00' + entry", "b'\\x01' + entry"),
    ),
    Mutant("an altered log is continued", f"{_LOG}:AuditLog._resume", never("(head.size, head.root) != __")),
    Mutant("two processes write one log", f"{_LOG}:AuditLog._check_alone", never("__ != self._tree.size")),
    Mutant("lost records are not recorded", f"{_WRITER}:AuditWriter._write", swap("entries.insert(0, __)", "None")),
    Mutant(
        "a node answers before the record is written",
        "hybrid_llm.backends.node.audit:NodeAudit.begin",
        swap("await asyncio.wrap_future(written)", "await asyncio.sleep(0)"),
    ),
    Mutant(
        "an app answers though nothing can be recorded",
        "hybrid_llm.router.observability.audit:AuditHook.admit",
        swap("written.result(max(0.0, request.remaining()))", "None"),
    ),
    Mutant(
        "a request is answered without the hooks that may refuse it",
        "hybrid_llm.router.pipeline:Pipeline.answer",
        drop("self._admit(routed)"),
    ),
)
