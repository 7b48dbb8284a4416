"""The planted faults of the choice between several nodes, and of finding out whether a node is there."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_POOL, _CHOOSE, _WAY = "cloud/pool.py", "cloud/choose.py", "cloud/way.py"
_CONNECTION, _EXCHANGE = "cloud/connection.py", "cloud/exchange.py"
_PLACE, _NAMES, _LOOKUP = "cloud/place.py", "cloud/names.py", "transport/lookup.py"

MUTANTS = (
    Mutant("an answer does not close a node's breaker", _POOL, "        node.breaker.succeeded()\n", ""),
    Mutant("a node that fails is not ejected", _POOL, "            self.breaker.failed()\n", "            pass\n"),
    Mutant(
        "a full node is asked again at once",
        _POOL,
        "            self.rests_until = self.clock() + error.retry_after\n",
        "            pass\n",
    ),
    Mutant("a node is asked twice for one request", _POOL, "            asked.add(node.name)\n", "            pass\n"),
    Mutant(
        "a request that has asked all nodes may ask no more",
        _POOL,
        "                asked.clear()\n",
        "                pass\n",
    ),
    Mutant(
        "a node that says it is stopping gets requests",
        _POOL,
        "            return EndpointHealth.STOPPING\n",
        "            pass\n",
    ),
    Mutant(
        "a node that cannot be trusted gets requests",
        _POOL,
        "            return EndpointHealth.UNREACHABLE\n",
        "            pass\n",
    ),
    Mutant(
        "nodes are added to no list", _POOL, "                    self._nodes[target] = ", "                    _ = "
    ),
    Mutant("a session goes anywhere", _CHOOSE, "self._reader(seats, blocks) or ", ""),
    Mutant(
        "a session stays with a node that is far too busy",
        _CHOOSE,
        "return seat if seat.busy <= bound else None",
        "return seat",
    ),
    Mutant(
        "sessions of two tenants are one",
        _CHOOSE,
        'f"{request.tenant}\\x00{request.session_id}"',
        'f"{request.session_id}"',
    ),
    Mutant("a short beginning binds a prompt", _CHOOSE, "_WORTH: Final = 0.5", "_WORTH: Final = 0.0"),
    Mutant("the slower of two is taken", _CHOOSE, "return min(drawn", "return max(drawn"),
    Mutant(
        "a node that nobody heard of is under no suspicion", _WAY, "if self._heard > since or", "if self._heard > 0 or"
    ),
    Mutant(
        "a node that was heard is under suspicion", _WAY, "if self._heard > since or self._looking", "if self._looking"
    ),
    Mutant("everyone looks for themselves", _WAY, "            if self._looking is None:\n", "            if True:\n"),
    Mutant("the way back is not looked for", _WAY, "        if begins:\n            self._watch()\n", ""),
    Mutant("what was found is looked for", _WAY, "if self._is_over():  # somebody", "if not self:  # somebody"),
    Mutant("a closed one looks on", _WAY, "        self._closed.set()\n", "        pass\n"),
    Mutant(
        "nobody looks beside a call that hears nothing",
        _CONNECTION,
        "                    self.way.suspect(since)\n",
        "                    pass\n",
    ),
    Mutant(
        "the other nodes are not looked at meanwhile",
        _CONNECTION,
        "                self._on_doubt(since)\n",
        "                pass\n",
    ),
    Mutant(
        "calls of a silent node wait for their deadline",
        _CONNECTION,
        "                cancel()\n\n    def drop",
        "                pass\n\n    def drop",
    ),
    Mutant(
        "a slow node is looked at all the time",
        _EXCHANGE,
        "return max(_PATIENCE_S, 2e-3 * self._observed.first_ms)",
        "return 0.0",
    ),
    Mutant(
        "requests are sent where no way leads",
        _CONNECTION,
        "        if changed or not self.has_way:\n",
        "        if changed:\n",
    ),
    Mutant(
        "calls under way are not told that the way is lost",
        _CONNECTION,
        "                self.way.suspect(time.monotonic())\n",
        "                pass\n",
    ),
    Mutant("a lost way is no silence", "transport/handshake.py", " and error.errno in NO_WAY", " and error.errno == 0"),
    Mutant("there is always a way", _LOOKUP, "        return error.errno not in NO_WAY\n", "        return True\n"),
    Mutant("everyone looks a name up", _LOOKUP, "            if asked is None:\n", "            if True:\n"),
    Mutant("a name is waited for without end", _LOOKUP, "asked.result(timeout)", "asked.result()"),
    Mutant(
        "a pool of silent nodes is ready",
        _POOL,
        "    return SILENT if SILENT in reasons else NO_WAY\n",
        '    return ""\n',
    ),
    Mutant(
        "a pool is silent with one of its nodes",
        _POOL,
        "not reasons <= {SILENT, NO_WAY}",
        "not reasons & {SILENT, NO_WAY}",
    ),
    Mutant("the name is asked each time", _PLACE, "        known = self._first\n", '        known = ""\n'),
    Mutant(
        "a node that has moved is never found",
        _PLACE,
        "        if known and left <= 0:\n",
        "        if known:\n",
    ),
    Mutant(
        "an address that keeps quiet gets all the time",
        _PLACE,
        "(end - time.monotonic()) / (len(found) - number)",
        "end - time.monotonic()",
    ),
    Mutant("a name that fails takes its nodes along", _NAMES, "return self._found[config]", "return (config,)"),
    Mutant("a name is looked up once for ever", _NAMES, "self._clock() >= self._due", "self._due < 0"),
    Mutant(
        "the first of many requests has all nodes for itself",
        _NAMES,
        "        if not self.known:\n            self._look_first",
        "        if not self.known and not self._due:\n            self._look_first",
    ),
)
