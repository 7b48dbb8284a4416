"""The KV memory in blocks: which sequence holds which, which are free, and what the free ones have cached.

A block has room for a few tokens. Blocks whose tokens are computed are found by a chain of hashes, of a salt and of all
tokens up to the block's last, and are shared by reference: sequences of one salt that begin alike hold the same blocks.
Free blocks keep their content until they are needed, the least recently used first. Only bookkeeping: no tensors here.

Attention reads adjacent memory fastest. So a sequence gets a run of blocks that has room for its longest answer. The
blocks behind its last one are set aside for it, but belong to nobody: where memory is short others get them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from hybrid_llm.backends.node.engine import KV_BLOCK
from hybrid_llm.backends.text import LEAST_SHARED, shared_prefix

_BUSY = np.iinfo(np.int64).max


class Table:
    """Where the tokens of one sequence are stored: its *blocks*, in the order of the text.

    Made by the *salt* under which its tokens are shared.
    """

    def __init__(self, salt: str = "", blocks: TokenIds[int] = ()) -> None:
        self.blocks = list(blocks)
        self.run = 0
        """Index of the block from which on all are adjacent in memory."""
        self.published = 0
        """Blocks, from the first on, whose content is final: others may hold them too."""
        self.next = self.end = self.blocks[-1] + 1 if self.blocks else 0
        """The blocks from *next* to *end*, which is not included, are set aside for it."""
        self._keys = [sha256(salt.encode()).digest()]

    @property
    def origin(self) -> int:
        """The block where the text would begin if all blocks were adjacent like those of the last run."""
        return self.blocks[self.run] - self.run

    @property
    def readable(self) -> int:
        """Blocks, from *origin* on, up to the end of the memory that is its own or nobody's."""
        return (self.end if self.next == self.blocks[-1] + 1 else self.blocks[-1] + 1) - self.origin

    def append(self, block: int) -> None:
        """Let the text continue in *block*."""
        if self.blocks and block != self.blocks[-1] + 1:
            self.run = len(self.blocks)
        self.blocks.append(block)

    def key(self, blocks: int, tokens: TokenIds[int], size: int) -> bytes:
        """Identifies the salt and the first *blocks* of *tokens*."""
        for index in range(len(self._keys) - 1, blocks):
            content = array("q", tokens[index * size : (index + 1) * size]).tobytes()
            self._keys.append(sha256(self._keys[index] + content).digest())
        return self._keys[blocks]

    def clear(self) -> None:
        """Hold nothing."""
        self.blocks, self.run, self.published, self.next, self.end = [], 0, 0, 0, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """The first *tokens* of the block *source*, which are to be copied to the block *target*."""

    source: int
    target: int
    tokens: int


class Prefix(NamedTuple):
    """What is cached of a text: whole *blocks*, then the first *tail* tokens of the block *source*."""

    blocks: list[int]
    source: int
    tail: int


@dataclass(frozen=True, slots=True)
class _Content:
    """What a block has cached: *tokens*, after the text that *parent* identifies."""

    parent: bytes
    tokens: TokenIds[int] = field(repr=False)
    key: bytes | None
    """Of a whole block."""


class BlockPool:
    """A fixed number of *blocks*, each of *size* tokens.

    *slots* sequences hold blocks at a time. With *reuse* off free blocks keep nothing. Without *rewinds* a text can be
    continued from its last token only.
    """

    def __init__(
        self, blocks: int, size: int = KV_BLOCK, *, slots: int = 1, reuse: bool = True, rewinds: bool = True
    ) -> None:
        self.blocks = blocks
        self.size = size
        self.held = 0
        """Blocks that sequences hold: each counts once, however many hold it."""
        self._part = blocks // slots
        self._reuse = reuse
        self._rewinds = rewinds
        self._holders = [0] * blocks
        self._tables: set[Table] = set()
        self._busy = np.zeros(blocks, dtype=bool)
        """Held, or set aside."""
        self._used = np.zeros(blocks, dtype=np.int64)
        """When a block was used last; 0 if it has nothing cached."""
        self._uses = 0
        self._whole: dict[bytes, int] = {}
        self._contents: dict[int, _Content] = {}
        self._following: dict[tuple[bytes, int], dict[int, None]] = {}
        """The blocks that continue a text with a token."""

    @property
    def free(self) -> int:
        """Blocks that no sequence holds."""
        return self.blocks - self.held

    def needed(self, tokens: int) -> int:
        """Blocks for so many tokens."""
        return -(-tokens // self.size)

    def lacking(self, table: Table, tokens: TokenIds[int]) -> int:
        """Blocks that are missing to store *tokens*, beyond those that are cached and those that are free."""
        return self._lacking(self._cached(table, tokens), len(tokens))

    def open(
        self, table: Table, tokens: TokenIds[int], *, longest: int, spare: int = 0
    ) -> tuple[int, Copy | None] | None:
        """Give *table*, which holds nothing, blocks for *tokens*; None if fewer than *spare* would stay free.

        Returns how many tokens are cached, all but the last at most, and what must be copied before the blocks are
        used, in the order of the calls. *longest* tokens will be stored at most: a run for
        them is set aside if there is one.
        """
        prefix = self._cached(table, tokens)
        if self._lacking(prefix, len(tokens)) > -spare:
            return None
        self._tables.add(table)
        for block in prefix.blocks:
            self._hold(block)
            table.append(block)
        table.published = len(prefix.blocks)
        table.next = table.end = 0
        cached = len(prefix.blocks) * self.size + prefix.tail
        copy = self._continue(table, prefix, longest) if prefix.tail else None
        while len(table.blocks) < self.needed(len(tokens)):
            self._append(table, longest)
        return cached, copy

    def extend(self, table: Table, *, longest: int) -> bool:
        """Give *table* one more block; False if none is free."""
        if not self.free:
            return False
        self._append(table, longest)
        return True

    def publish(self, table: Table, tokens: TokenIds[int], verified: int) -> None:
        """Let others share the whole blocks of the first *verified* tokens, which are known to be finite."""
        if not self._reuse:
            return
        for index in range(table.published, verified // self.size):
            self._store(table, index, tokens)
            table.published = index + 1

    def close(self, table: Table, tokens: TokenIds[int]) -> None:
        """Free the blocks of *table*, which keep *tokens*; these and all else in them must be known to be finite."""
        self.publish(table, tokens, len(tokens))
        if self._reuse and len(tokens) % self.size:
            self._store(table, len(tokens) // self.size, tokens)
        for block in reversed(table.blocks):  # the end of a text is evicted before its beginning
            self._release(block)
        self._busy[table.next : table.end] = False
        self._tables.discard(table)
        table.clear()

    # --- what is cached

    def _cached(self, table: Table, tokens: TokenIds[int]) -> Prefix:
        blocks: list[int] = []
        most = len(tokens) - 1
        if not self._reuse:
            return Prefix(blocks, 0, 0)
        while (len(blocks) + 1) * self.size <= most:
            block = self._whole.get(table.key(len(blocks) + 1, tokens, self.size))
            if block is None:
                break
            blocks.append(block)
        source, tail = self._best_tail(table, tokens, len(blocks))
        shared = len(blocks) * self.size + tail
        return Prefix(blocks, source, tail) if shared >= LEAST_SHARED else Prefix([], 0, 0)

    def _best_tail(self, table: Table, tokens: TokenIds[int], blocks: int) -> tuple[int, int]:
        """The block that continues as *tokens* do after the first *blocks*, and for how many tokens."""
        rest = tokens[blocks * self.size : (blocks + 1) * self.size]
        most = min(self.size, len(tokens) - 1 - blocks * self.size)
        best = (0, 0)
        for block in self._following.get((table.key(blocks, tokens, self.size), rest[0]), ()):
            content = self._contents[block].tokens
            shared = shared_prefix(content, rest, most=most)
            if shared > best[1] and (self._rewinds or shared == len(content)):
                best = (block, shared)
        return best

    def _continue(self, table: Table, prefix: Prefix, longest: int) -> Copy | None:
        """Let *table* go on in the block of the prefix's tail, or in a copy where others need it."""
        if not self._holders[prefix.source] and self._contents[prefix.source].key is None:
            self._hold(prefix.source)
            self._forget(prefix.source)
            table.append(prefix.source)
            return None
        self._touch(prefix.source)
        self._append(table, longest)
        target = table.blocks[-1]
        return Copy(source=prefix.source, target=target, tokens=prefix.tail) if target != prefix.source else None

    def _store(self, table: Table, index: int, tokens: TokenIds[int]) -> None:
        """Note that block *index* of *table* has its part of *tokens* cached, unless another one has."""
        content = tokens[index * self.size : (index + 1) * self.size]
        parent = table.key(index, tokens, self.size)
        following = self._following.get((parent, content[0]), {})
        if any(self._contents[each].tokens[: len(content)] == content for each in following):
            return
        key = table.key(index + 1, tokens, self.size) if len(content) == self.size else None
        block = table.blocks[index]
        self._contents[block] = _Content(parent, content, key)
        self._following.setdefault((parent, content[0]), {})[block] = None
        if key is not None:
            self._whole[key] = block

    def _forget(self, block: int) -> None:
        content = self._contents.pop(block, None)
        if content is None:
            return
        if content.key is not None:
            del self._whole[content.key]
        first = (content.parent, content.tokens[0])
        del self._following[first][block]
        if not self._following[first]:
            del self._following[first]

    # --- who holds what

    def _lacking(self, prefix: Prefix, tokens: int) -> int:
        cached = sum(not self._holders[block] for block in prefix.blocks)
        return self.needed(tokens) - len(prefix.blocks) + cached - self.free

    def _hold(self, block: int) -> None:
        if not self._holders[block]:
            self.held += 1
            if self._busy[block]:
                self._cut(block)
            self._busy[block] = True
        self._holders[block] += 1

    def _release(self, block: int) -> None:
        self._holders[block] -= 1
        if not self._holders[block]:
            self.held -= 1
            self._busy[block] = False
            self._touch(block)

    def _touch(self, block: int) -> None:
        self._uses += 1
        self._used[block] = self._uses if block in self._contents else 0

    def _append(self, table: Table, longest: int) -> None:
        """Continue *table* in a free block, of which there is one."""
        if table.next == table.end:
            self._set_aside(table, max(1, self.needed(longest) - len(table.blocks)))
        block = table.next
        table.next += 1
        self._busy[block] = False  # it is this table's own
        self._hold(block)
        self._forget(block)
        table.append(block)

    def _set_aside(self, table: Table, wanted: int) -> None:
        """Set up to *wanted* adjacent blocks aside for *table*: those used least, or as little and behind its last."""
        used = np.where(self._busy, _BUSY, self._used)
        start, count = self._free_run(used, wanted) or self._cut_longest(wanted)
        if table.blocks:
            behind = used[table.blocks[-1] + 1 :][: min(count, wanted)]
            if len(behind) == min(count, wanted) and behind.max() <= used[start : start + count].max() < _BUSY:
                start, count = table.blocks[-1] + 1, len(behind)
        table.next, table.end = start, start + count
        self._busy[start : start + count] = True

    def _free_run(self, used: np.ndarray, wanted: int) -> tuple[int, int] | None:
        """The first block and the length of a run that is free: of *wanted* blocks or a few more, or else shorter."""
        count = _rounded(wanted, self._part)
        while count:
            start = _least_used(used, count) if count <= len(used) else None
            if start is not None:
                return start, count
            count = wanted if count > wanted else count // 2
        return None

    def _cut_longest(self, wanted: int) -> tuple[int, int]:
        """The first block and the length of a run: half of what is set aside for the table with most."""
        longest = max(self._tables, key=lambda table: table.end - table.next)
        count = min(wanted, -(-(longest.end - longest.next) // 2))
        self._cut(longest.end - count)
        return longest.end, count

    def _cut(self, block: int) -> None:
        """Take *block*, and those behind it, from the table for which they are set aside."""
        for table in self._tables:
            if table.next <= block < table.end:
                self._busy[block : table.end] = False
                table.end = block


def _rounded(wanted: int, most: int) -> int:
    """*wanted* rounded up to a multiple of the largest power of two with which it is *most* at most.

    Runs of about one length are evenly spaced then.
    """
    step = 1 << (wanted - 1).bit_length()
    while step > 1 and -(-wanted // step) * step > most:
        step //= 2
    return -(-wanted // step) * step


def _least_used(used: np.ndarray, count: int) -> int | None:
    """The first of *count* adjacent blocks that are free, and of which none was used recently.

    *used* has when each block was used, or `_BUSY`. They begin at a multiple of *count*, or else anywhere.
    """
    aligned = used[: len(used) // count * count].reshape(-1, count).max(1)
    if aligned[best := int(aligned.argmin())] < _BUSY:
        return best * count
    anywhere = _runs(used, count)
    return best if anywhere[best := int(anywhere.argmin())] < _BUSY else None


def _runs(used: np.ndarray, count: int) -> np.ndarray:
    """The latest use of *count* adjacent blocks, from each block on."""
    length = 1
    while length < count:  # of two runs that overlap or meet
        more = min(length, count - length)
        used = np.maximum(used[: len(used) - more], used[more:])
        length += more
    return used
