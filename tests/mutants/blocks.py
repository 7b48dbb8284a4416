"""Planted faults of the KV memory in blocks: who holds one, what of it is shared, and which requests may run."""

from __future__ import annotations

from tests.mutants.changes import always, drop, never, swap
from tests.mutants.mutant import Mutant

_BLOCKS = "hybrid_llm.backends.node.engines.blocks"
_SCHEDULER = "hybrid_llm.backends.node.engines.scheduler"
_ATTENTION = "hybrid_llm.backends.node.engines.attention"

MUTANTS = (
    Mutant(
        "texts of different salts share blocks",
        f"{_BLOCKS}:Table.__init__",
        swap("sha256(salt.encode())", "sha256()"),
    ),
    Mutant(
        "a block is found by its own tokens, whatever is before it",
        f"{_BLOCKS}:Table.key",
        swap("self._keys[index] + content", "self._keys[0] + content"),
    ),
    Mutant(
        "tokens that may not be finite are shared",
        f"{_BLOCKS}:BlockPool.publish",
        swap("verified // self.size", "len(tokens) // self.size"),
    ),
    Mutant("a shared block is free when one holder ends", f"{_BLOCKS}:BlockPool._release", always("not __")),
    Mutant(
        "a whole block with a continuation of its own is overwritten",
        f"{_BLOCKS}:BlockPool._continue",
        swap("not __x and __y is None", "not __x"),
    ),
    Mutant("what is overwritten is still found", f"{_BLOCKS}:BlockPool._append", drop("self._forget(block)")),
    Mutant(
        "runs are rounded up until some texts of a full node are scattered",
        f"{_BLOCKS}:_rounded",
        swap("step > 1 and -(-wanted // step) * step > most", "False"),
    ),
    Mutant("a block that is held is set aside", f"{_BLOCKS}:BlockPool._cut", drop("table.end = block")),
    Mutant(
        "the run behind the last block is taken whoever holds it",
        f"{_BLOCKS}:BlockPool._set_aside",
        swap("__x <= __y < _BUSY", "True"),
    ),
    Mutant(
        "the last token of a cached text is not computed",
        f"{_BLOCKS}:BlockPool._cached",
        swap("len(tokens) - 1", "len(tokens)"),
    ),
    Mutant("more is admitted than is free", f"{_BLOCKS}:BlockPool.open", never("self._lacking(__a, __b) > __c")),
    Mutant("nobody makes room for an answer that grows", f"{_BLOCKS}:BlockPool.extend", never("not self.free")),
    Mutant(
        "a request that was thrown out keeps the count of what it had cached",
        f"{_SCHEDULER}:Scheduler.requeue",
        drop("sequence.cached = sequence.verified = 0"),
    ),
    Mutant("an ended request keeps its blocks", f"{_SCHEDULER}:Scheduler.remove", drop("self.pool.close(__a, __b)")),
    Mutant("memory of others is read to be masked", f"{_ATTENTION}:_Batch.take", never("self._adjacent and not __")),
    Mutant("blocks anywhere are read as if adjacent", f"{_ATTENTION}:_adjacent", swap("begin >= __", "True")),
)
