"""Planted faults of the choice among endpoints, and of the check whether an endpoint is there."""

from __future__ import annotations

from tests.mutants.changes import always, drop, drop_operand, swap
from tests.mutants.mutant import Mutant

_POOL = "hybrid_llm.backends.grpc.pool"
_PICKER = "hybrid_llm.backends.grpc.picker"
_HEALTH = "hybrid_llm.backends.grpc.health"
_CONNECTION = "hybrid_llm.backends.grpc.connection"
_EXCHANGE = "hybrid_llm.backends.grpc.exchange"
_HANDSHAKE = "hybrid_llm.backends.wire.handshake"
_ADDRESS = "hybrid_llm.backends.grpc.address"

MUTANTS = (
    Mutant(
        "an answer does not close a node's breaker", f"{_POOL}:GrpcPool._answered", drop("node.breaker.succeeded()")
    ),
    Mutant("a node that fails is not ejected", f"{_POOL}:_Node.failed", drop("self.breaker.failed()")),
    Mutant(
        "a full node is asked again at once",
        f"{_POOL}:_Node.failed",
        drop("self.rests_until = self.clock() + error.retry_after"),
    ),
    Mutant("a node is asked twice for one request", f"{_POOL}:GrpcPool._pick", drop("asked.add(node.name)")),
    Mutant("a request that has asked all nodes may ask no more", f"{_POOL}:GrpcPool._asked_by", drop("asked.clear()")),
    Mutant(
        "a node that says it is stopping gets requests",
        f"{_POOL}:_Node._health",
        drop("return EndpointHealth.STOPPING"),
    ),
    Mutant(
        "a node that cannot be trusted gets requests",
        f"{_POOL}:_Node._health",
        drop("return EndpointHealth.UNREACHABLE"),
    ),
    Mutant("nodes are added to no list", f"{_POOL}:GrpcPool._take", swap("self._nodes[target]", "_")),
    Mutant("a session goes anywhere", f"{_PICKER}:Chooser.choose", drop_operand("self._reader(seats, blocks)")),
    Mutant(
        "a session stays with a node that is far too busy",
        f"{_PICKER}:Chooser._reader",
        swap("seat if seat.busy <= bound else None", "seat"),
    ),
    Mutant(
        "sessions of two tenants are one",
        f"{_PICKER}:blocks_of",
        swap("f'{request.tenant}\\x00{request.session_id}'", "f'{request.session_id}'"),
    ),
    Mutant("a short beginning binds a prompt", f"{_PICKER}:_WORTH", swap("0.5", "0.0")),
    Mutant(
        "the slower of two is taken",
        f"{_PICKER}:Chooser._quicker",
        swap("min(drawn, key=lambda seat: seat.waiting_ms)", "max(drawn, key=lambda seat: seat.waiting_ms)"),
    ),
    Mutant("a node that nobody heard of is under no suspicion", f"{_HEALTH}:Way.suspect", swap("since", "0")),
    Mutant("a node that was heard is under suspicion", f"{_HEALTH}:Way.suspect", drop_operand("self._heard > since")),
    Mutant("everyone looks for themselves", f"{_HEALTH}:Way._begun", always("self._looking is None")),
    Mutant("the way back is not looked for", f"{_HEALTH}:Way._run", drop("if begins: ...")),
    Mutant(
        "what was found is looked for",
        f"{_HEALTH}:Way._watch",
        swap(
            (
                "while not self._closed.wait(random.uniform(pause / 2, pause)):\n"
                "    if self._is_over():\n"
                "        return\n"
                "    lost = not self._has_way()\n"
                "    pause = first if lost else min(longest, 2 * pause)\n"
                "    if lost and time.monotonic() - self._looked < longest:\n"
                "        continue\n"
                "    self._try(self._longest)\n"
                "    if self._is_over():\n"
                "        return"
            ),
            (
                "while not self._closed.wait(random.uniform(pause / 2, pause)):\n"
                "    if not self:\n"
                "        return\n"
                "    lost = not self._has_way()\n"
                "    pause = first if lost else min(longest, 2 * pause)\n"
                "    if lost and time.monotonic() - self._looked < longest:\n"
                "        continue\n"
                "    self._try(self._longest)\n"
                "    if self._is_over():\n"
                "        return"
            ),
        ),
    ),
    Mutant("a closed one looks on", f"{_HEALTH}:Way.close", drop("self._closed.set()")),
    Mutant(
        "nobody looks beside a call that hears nothing",
        f"{_CONNECTION}:Connection._attend",
        drop("self.way.suspect(since)"),
    ),
    Mutant(
        "the other nodes are not looked at meanwhile",
        f"{_CONNECTION}:Connection._attend",
        drop("self._on_doubt(since)"),
    ),
    Mutant(
        "calls of a silent node wait for their deadline", f"{_CONNECTION}:Connection._end_hopeless", drop("cancel()")
    ),
    Mutant(
        "a slow node is looked at all the time",
        f"{_EXCHANGE}:Exchange._usual_patience",
        swap("max(_PATIENCE_S, 0.002 * self._observed.first_ms)", "0.0"),
    ),
    Mutant(
        "requests are sent where no way leads",
        f"{_CONNECTION}:Connection._check_open",
        drop_operand("not self.has_way"),
    ),
    Mutant(
        "calls under way are not told that the way is lost",
        f"{_CONNECTION}:Connection._attend",
        drop("self.way.suspect(time.monotonic())"),
    ),
    Mutant("a lost way is no silence", f"{_HANDSHAKE}:is_silence", swap("error.errno in NO_ROUTE", "error.errno == 0")),
    Mutant("there is always a way", f"{_HANDSHAKE}:has_route", always("error.errno not in NO_ROUTE")),
    Mutant("everyone looks a name up", f"{_HANDSHAKE}:Lookup.__call__", always("pending is None")),
    Mutant(
        "a name is waited for without end",
        f"{_HANDSHAKE}:Lookup.__call__",
        swap("pending.result(timeout)", "pending.result()"),
    ),
    Mutant(
        "a pool of silent nodes is ready", f"{_POOL}:_silence", swap("SILENT if SILENT in reasons else NO_WAY", "''")
    ),
    Mutant(
        "a pool is silent with one of its nodes",
        f"{_POOL}:_silence",
        swap("reasons <= {SILENT, NO_WAY}", "reasons & {SILENT, NO_WAY}"),
    ),
    Mutant("the name is asked each time", f"{_ADDRESS}:Place._addresses", swap("self._first", "''")),
    Mutant("a node that has moved is never found", f"{_ADDRESS}:Place._addresses", drop_operand("left <= 0")),
    Mutant(
        "an address that keeps quiet gets all the time",
        f"{_ADDRESS}:Place._addresses",
        swap("(end - time.monotonic()) / (len(found) - number)", "end - time.monotonic()"),
    ),
    Mutant(
        "a name that fails takes its nodes along",
        f"{_ADDRESS}:Names._addresses",
        swap("self._found[config]", "(config,)"),
    ),
    Mutant(
        "a name is looked up once for ever",
        f"{_ADDRESS}:Names._is_due",
        swap("self._clock() >= self._due", "self._due < 0"),
    ),
    Mutant(
        "the first of many requests has all nodes for itself",
        f"{_ADDRESS}:Names.refresh",
        swap("not self.known", "not self.known and (not self._due)"),
    ),
)
