"""Planted faults of sealed mode: who may send what, what a node opens, and what an app takes for an answer."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_item, drop_operand, never, swap
from tests.mutants.mutant import Mutant

_CLEARANCE = "hybrid_llm.core.clearance"
_GUARD = "hybrid_llm.router.privacy.guard"
_POLICY = "hybrid_llm.policies.policy"
_MESSAGES = "hybrid_llm.backends.wire.sealing.messages"
_PINS = "hybrid_llm.backends.wire.sealing.pins"
_REPLAY = "hybrid_llm.backends.wire.sealing.replay"
_NODE = "hybrid_llm.backends.node.sealing"
_EXCHANGE = "hybrid_llm.backends.grpc.exchange"

MUTANTS = (
    Mutant(
        "a tag that demands sealing excludes nothing",
        f"{_POLICY}:Policy._ineligible",
        never("sealing and location is Location.CLOUD and not (state is not None and state.sealed)"),
    ),
    Mutant("the guard forgets the demand", f"{_GUARD}:PrivacyGuard.clear", drop_operand("assessment.sealed")),
    Mutant("the guard never demands it", f"{_GUARD}:PrivacyGuard.assess", never("bool(policy.sealing(tags))")),
    Mutant(
        "a request that need not be sealed is refused",
        f"{_CLEARANCE}:require_clearance",
        drop_operand("clearance.sealed"),
    ),
    Mutant("the demand is not enforced", f"{_CLEARANCE}:require_clearance", never("clearance.sealed and not seals")),
    Mutant("the MAC omits the demand", f"{_CLEARANCE}:_mac", drop_item("form")),
    Mutant(
        "what stays outside is not authenticated",
        f"{_MESSAGES}:_info",
        swap("_LABEL + bare.SerializeToString(deterministic=True)", "_LABEL"),
    ),
    Mutant("the last chunk is not marked", f"{_MESSAGES}:AnswerOpener.finish", never("not self._ended")),
    Mutant("chunks after the end are taken", f"{_MESSAGES}:AnswerOpener.__call__", drop("if self._ended: ...")),
    Mutant(
        "the mark of the last chunk is not authenticated",
        f"{_MESSAGES}:AnswerOpener.__call__",
        swap(
            "self._answer_key(message).open(message.sealed, _LAST if last else b'')",
            "self._answer_key(message).open(message.sealed, b'')",
        ),
    ),
    Mutant(
        "the nonce does not count",
        f"{_MESSAGES}:AnswerKey._next",
        swap("(self._base ^ self._count, self._count + 1)", "(self._base, self._count + 1)"),
    ),
    Mutant(
        "what is beside the ciphertext is ignored",
        f"{_MESSAGES}:AnswerOpener.__call__",
        never("any((field.number not in _OUTSIDE for field, _ in message.ListFields()))"),
    ),
    Mutant("the end of a stream is not checked", f"{_EXCHANGE}:Exchange.finish", drop("self._opener.finish()")),
    Mutant("chunks are not opened", f"{_EXCHANGE}:Exchange.receive", never("self._opener is not None")),
    Mutant(
        "a key that is not pinned is taken", f"{_PINS}:Pins.accepted", always("self._path is None or each in self.keys")
    ),
    Mutant("an expired key is taken", f"{_PINS}:Pins.accepted", never("each.expired(now)")),
    Mutant("evidence is not checked", f"{_PINS}:Pins.accepted", drop("self._verifier.verify(valid[0])")),
    Mutant("a node opens with an expired key", f"{_NODE}:Sealing._key", never("key.config.expired(datetime.now(UTC))")),
    Mutant("replays are answered", f"{_REPLAY}:ReplayWindow.admit", never("name in self._seen")),
    Mutant("old requests are answered", f"{_REPLAY}:ReplayWindow.admit", never("abs(now - issued) > self._window")),
    Mutant(
        "the memory of replays has no bound", f"{_REPLAY}:ReplayWindow.admit", never("len(self._seen) >= self._most")
    ),
    Mutant(
        "what was sealed before the start is answered", f"{_REPLAY}:ReplayWindow.admit", never("issued < self._began")
    ),
    Mutant("a node that takes sealed requests only takes others", f"{_NODE}:Sealing.open", never("self._required")),
)
