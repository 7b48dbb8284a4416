"""The planted faults of the choice between several nodes, and of finding out whether a node is there."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_POOL, _CHOOSE, _WAY = "cloud/pool.py", "cloud/choose.py", "cloud/way.py"
_CONNECTION, _EXCHANGE = "cloud/connection.py", "cloud/exchange.py"

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
        "            return NodeHealth.STOPPING\n",
        "            pass\n",
    ),
    Mutant(
        "a node that cannot be trusted gets requests",
        _POOL,
        "            return NodeHealth.UNREACHABLE\n",
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
    Mutant("a node that was heard is under suspicion", _WAY, "if self._heard > since or now", "if now"),
    Mutant("everyone looks for themselves", _WAY, "            if self._looking is None:\n", "            if True:\n"),
    Mutant("the way back is not looked for", _WAY, "        if begins:\n            self._watch()\n", ""),
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
)
