"""Both ends of signed keys, around Flower's protocol: a mod at the client, and a grid at the server."""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from hybrid_llm.core.errors import UntrustedPeer
from hybrid_llm.prepare.federated.keys import (
    CONFIGS,
    NODES,
    NONCE,
    NONCE_BYTES,
    NONCES,
    RECORD,
    VOUCHER,
    Agreement,
    Signer,
    distrust,
)
from hybrid_llm.prepare.federated.offer import Offer
from hybrid_llm.prepare.federated.roster import Grid

_log = logging.getLogger(__name__)
_SETUP, _SHARE = "setup", "share_keys"
_KEYS: Final = ("pk1", "pk2")
_FAILED: Final = 1
"""Flower's code for a client that gave no reply."""


class SignedKeys:
    """A mod that signs this client's keys, and lets no mask be made with keys that another has not signed."""

    def __init__(self, offer: Offer, signer: Signer) -> None:
        self._offer, self._signer = offer, signer
        self._nonce = b""
        self._agreed: Agreement | None = None

    def __call__(self, message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Give a nonce, sign, or check, as *message* asks. UntrustedPeer if keys are not those of their owners."""
        from flwr.app import ConfigRecord

        records = message.content.config_records
        if CONFIGS not in records and NONCE in records.get(RECORD, {}):
            return self._begin(message)
        stage = records.get(CONFIGS, {}).get("stage")
        if stage == _SETUP:
            agreed = self._agree(message)
        elif stage == _SHARE:
            self._check(message)
        reply = call_next(message, context)
        if stage == _SETUP:
            made = reply.content.config_records[CONFIGS]
            statement = agreed.statement(self._signer.node, [made[name] for name in _KEYS])
            reply.content.config_records[RECORD] = ConfigRecord({VOUCHER: self._signer.vouch(statement)})
        return reply

    def _begin(self, message: Any) -> Any:
        from flwr.app import ConfigRecord, Message, RecordDict

        self._nonce, self._agreed = os.urandom(NONCE_BYTES), None
        return Message(RecordDict({RECORD: ConfigRecord({NONCE: self._nonce})}), reply_to=message)

    def _agree(self, message: Any) -> Agreement:
        agreed, own = Agreement.read(self._offer, message), self._nonce
        self._nonce, self._agreed = b"", None  # each is good for one aggregation
        fresh = bool(own) and hmac.compare_digest(agreed.nonces.get(self._signer.node, b""), own)
        if not fresh or message.metadata.dst_node_id != self._signer.node:
            raise distrust("the random number of this client is not part of this aggregation")
        self._agreed = agreed
        return agreed

    def _check(self, message: Any) -> None:
        agreed, self._agreed = self._agreed, None
        if agreed is None:
            raise distrust("keys are passed on before an aggregation has begun")
        vouchers = message.content.config_records.get(RECORD, {})
        for name, keys in message.content.config_records[CONFIGS].items():
            if name not in {"stage", str(self._signer.node)}:
                node = int(name) if name.isascii() and name.isdecimal() else -1
                agreed.check(node, keys, vouchers.get(name, []), self._signer.ca)


class VouchedGrid:
    """A grid that collects nonces before an aggregation begins, and passes the signatures of keys on with them."""

    def __init__(self, grid: Grid, offer: Offer, ca: Path) -> None:
        self._grid, self._offer, self._ca = grid, offer, ca
        self._vouchers: dict[int, list[bytes]] = {}
        self._refused: set[int] = set()

    def node_ids(self) -> list[int]:
        """The clients that are there, without those that have not signed their keys."""
        return [node for node in self._grid.node_ids() if node not in self._refused]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Send each message to its client, and return the replies; an error in place of one that does not come."""
        asked = list(messages)
        stage = asked[0].content.config_records.get(CONFIGS, {}).get("stage") if asked else None
        if stage == _SETUP:
            return self._set_up(asked, timeout)
        if stage == _SHARE:
            self._pass_on(asked)
        return self._grid.send_and_receive(asked, timeout=timeout)

    def _set_up(self, asked: list[Any], timeout: float | None) -> list[Any]:
        from flwr.app import ConfigRecord

        nonces = self._nonces(asked, timeout)
        record = ConfigRecord({NODES: list(nonces), NONCES: list(nonces.values())})
        for each in asked:
            each.content.config_records[RECORD] = record
        self._vouchers = {}
        there = [each for each in asked if each.metadata.dst_node_id in nonces]
        gone = [_failed(each) for each in asked if each.metadata.dst_node_id not in nonces]
        if not there:
            return gone
        agreed = Agreement.read(self._offer, there[0])
        replies = self._grid.send_and_receive(there, timeout=timeout)
        by_node = {each.metadata.dst_node_id: each for each in there}
        return [*gone, *(self._vouched(agreed, by_node[each.metadata.src_node_id], each) for each in replies)]

    def _nonces(self, asked: list[Any], timeout: float | None) -> dict[int, bytes]:
        """Node -> the random number of each client that gave one."""
        from flwr.app import ConfigRecord, Message, RecordDict

        begin = RecordDict({RECORD: ConfigRecord({NONCE: b""})})
        nodes = [each.metadata.dst_node_id for each in asked]
        replies = self._grid.send_and_receive(
            [Message(begin, dst_node_id=node, message_type="train") for node in nodes], timeout=timeout
        )
        found = {
            each.metadata.src_node_id: each.content.config_records.get(RECORD, {}).get(NONCE)
            for each in replies
            if not each.has_error()
        }
        return {node: nonce for node, nonce in found.items() if isinstance(nonce, bytes) and len(nonce) == NONCE_BYTES}

    def _vouched(self, agreed: Agreement, message: Any, reply: Any) -> Any:
        """*reply* with keys that its client signed, else an error, so that no other client has to leave.

        Flower cannot go on without it, so the round is repeated.
        """
        if reply.has_error():
            return reply
        node = reply.metadata.src_node_id
        try:
            made = reply.content.config_records[CONFIGS]
            voucher = reply.content.config_records[RECORD][VOUCHER]
            agreed.check(node, [made[name] for name in _KEYS], voucher, self._ca)
        except (UntrustedPeer, KeyError, TypeError, ValueError) as error:
            _log.warning("a client's keys are not signed by it, and it is left out: %s", type(error).__name__)
            self._refused.add(node)
            return _failed(message)
        self._vouchers[node] = voucher
        return reply

    def _pass_on(self, asked: list[Any]) -> None:
        from flwr.app import ConfigRecord

        for each in asked:
            names = [name for name in each.content.config_records[CONFIGS] if name != "stage"]
            found = {name: self._vouchers.get(int(name), []) for name in names}
            each.content.config_records[RECORD] = ConfigRecord(found)


def _failed(message: Any) -> Any:
    from flwr.app import Error, Message

    return Message(Error(code=_FAILED, reason="no reply"), reply_to=message)
