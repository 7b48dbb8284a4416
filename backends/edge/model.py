"""The ONNX model and the key-value cache of one sequence: token ids in, logits out. No sampling, no text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.backends.edge.folder import Manifest, ModelLayout, read_layout, verify_manifest
from hybrid_llm.backends.edge.graph import Graph, inspect, probe
from hybrid_llm.backends.edge.runtime import open_session, usable_processors
from hybrid_llm.backends.edge.scheduling import BORDER, Prefix
from hybrid_llm.backends.edge.sessions import Sessions, read_machine
from hybrid_llm.backends.edge.speculation import RowRuns
from hybrid_llm.backends.schema import SchemaCompiler
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.lifetime import native

Logits = NDArray[np.float32]

_TRIED: Final = 5
"""Tokens that are computed together and alone when a model is opened; kernels work on up to four rows at once."""


class EdgeModel:
    """A model folder, verified and opened. Thread-safe; each sequence belongs to one thread at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        threads: int = 0,
        spin: bool = True,
        tokenizer: ChatTokenizer | None = None,
        signed: Mapping[str, str] | None = None,
    ) -> None:
        """Verify *folder* against its manifest, and this against what is *signed*, file -> SHA-256; then open it.

        Raises:
            ConfigError: a file is missing, modified or unusable.
            UntrustedModel: a file is not the signed one.
        """
        begun = read_machine()
        self.manifest: Manifest = verify_manifest(folder, signed)
        self.layout: ModelLayout = read_layout(folder, self.manifest)
        self.tokenizer = tokenizer or ChatTokenizer.load(folder)
        if self.tokenizer.vocab_size > self.layout.vocab_size:
            raise ConfigError(
                f"{folder}: the tokenizer has {self.tokenizer.vocab_size} ids, the model {self.layout.vocab_size}: "
                "they do not belong together",
                path=str(folder),
            )
        path = folder / self.layout.filename
        self.sessions = Sessions(
            lambda count: open_session(path, threads=count, spin=spin),
            threads or ceil(usable_processors()),
            meter=None if threads else read_machine,
            since=begun,
        )
        session = self.sessions.session()
        self._graph = inspect(session, self.layout, path)
        probe(session, self.layout, self._graph, path)
        self.schemas = SchemaCompiler(self.tokenizer.tokenizer.to_str, vocab_size=self.layout.vocab_size)
        self.kv_bytes_per_token: Final = self.layout.kv_bytes_per_token(self._graph.kv_dtype.itemsize)
        self._steps_reusable = False
        self._steps_reusable = self.layout.rows_per_token > 1 and self._bits_agree()
        self.row_runs = RowRuns() if self.layout.logit_rows is not None and self._steps_reusable else None
        """Of speculative decoding; None where that cannot be exact."""

    @property
    def hidden_size(self) -> int:
        """Numbers of the hidden states that sequences can give; 0 if the folder was made without `hidden_states`."""
        return self._graph.hidden_size

    def sequence(self, capacity: int, prefix: Prefix | None = None, *, hidden_states: bool = False) -> EdgeSequence:
        """Return a sequence with room for *capacity* tokens of prompt and answer, *prefix* included.

        The buffers of *prefix* are copied and released one by one. With *hidden_states*, `EdgeSequence.hidden_state` is
        there after each `append`; the model must have a `hidden_size`.
        """
        if not 1 <= capacity <= self.layout.context_length:
            raise ValueError(f"capacity must be from 1 to {self.layout.context_length}")
        if hidden_states and not self.hidden_size:
            raise ValueError("this model gives no hidden states: convert or add it with --hidden-states")
        return EdgeSequence(
            self.sessions,
            self.layout,
            self._graph,
            capacity,
            prefix,
            steps_reusable=self._steps_reusable,
            hidden_states=hidden_states,
        )

    def _bits_agree(self) -> bool:
        """Whether tokens get the same bits in runs of their own and together on this processor too."""
        ids = [number * self.layout.vocab_size // (_TRIED + 1) for number in range(1, _TRIED + 1)]
        ids = ids[: self.layout.context_length]
        together, alone = self.sequence(len(ids)), self.sequence(len(ids))
        expected = together.append(ids)
        logits = [alone.append([token]) for token in ids][-1]
        pairs = zip(together.buffers, alone.buffers, strict=True)
        return np.array_equal(logits, expected) and all(
            np.array_equal(one[:, :, : len(ids)], other[:, :, : len(ids)]) for one, other in pairs
        )


class EdgeSequence:
    """The key-value cache of one request.

    Each buffer is bound both as the graph's past input and as its present output: onnxruntime's attention then writes
    new tokens in place, and a step copies nothing.
    """

    def __init__(
        self,
        sessions: Sessions,
        layout: ModelLayout,
        graph: Graph,
        capacity: int,
        prefix: Prefix | None = None,
        *,
        steps_reusable: bool = False,
        hidden_states: bool = False,
    ) -> None:
        self._steps_reusable = steps_reusable
        self._sessions, self._layout, self._graph = sessions, layout, graph
        self._capacity, self._length = capacity, prefix.length if prefix is not None else 0
        self._reusable = self._length
        self._options = graph.run_options()
        # Without this, onnxruntime 1.32 looks for it in every run and raises a C++ exception, 40 us a token.
        self._options.add_run_config_entry("gpu_graph_id", "-1")
        self._session: Any = None
        self._binding: Any = None
        self._step_bound = False
        self._mask = np.ones((1, capacity), dtype=np.int64)
        self._positions = np.arange(capacity, dtype=np.int64).reshape(1, capacity)
        self._mask_at, self._positions_at = self._mask.ctypes.data, self._positions.ctypes.data
        self._token = np.zeros((1, 1), dtype=np.int64)
        self._step_logits = np.empty((1, 1, layout.vocab_size), dtype=graph.logits_dtype)
        self._logit_rows = np.ones(1, dtype=np.int64)
        self._gives_hidden = hidden_states
        self._hidden: NDArray[Any] | None = None
        rows = capacity + (layout.rows_per_token - 1) * BORDER
        self._shape = (1, layout.kv_heads, rows, layout.head_size)
        self._kv = self._allocate(prefix.buffers if prefix is not None else [])

    @property
    def length(self) -> int:
        """Tokens in the cache."""
        return self._length

    @property
    def room(self) -> int:
        """Tokens that fit behind those in the cache."""
        return self._capacity - self._length

    @property
    def hidden_state(self) -> NDArray[np.float32]:
        """The last layer's output after the final norm at the token that was appended last, shape (hidden_size,).

        What the model's head makes the logits of. A copy; only of a sequence with *hidden_states*.

        Raises:
            ValueError: nothing was appended yet, or the sequence is without.
        """
        if self._hidden is None:
            raise ValueError("there is no hidden state: ask for them with `sequence(..., hidden_states=True)`")
        last: NDArray[np.float32] = self._hidden[0, -1].copy()
        return last

    @property
    def reusable(self) -> int:
        """Tokens in the cache, from the first one, whose bits do not depend on the runs in which they were computed.

        All of them where a token gets the same bits alone and together, else those of whole runs between borders.
        """
        return self._reusable

    @property
    def buffers(self) -> list[NDArray[Any]]:
        """Keys of all layers, then values, each (1, heads, capacity or more, head size); only runs write them."""
        return self._kv

    def terminate(self) -> None:
        """Make the current `append` and all later ones raise; from any thread."""
        self._options.terminate = True

    def append(self, ids: Sequence[int]) -> Logits:
        """Run the model over *ids* and return the logits after the last one, shape (vocab_size,).

        Each run ends at the next multiple of `BORDER`, so that what precedes such a border was computed by the same
        arithmetic whatever was cached: products of one row and of many differ in their last bits. The array is
        overwritten by the next call.

        Raises:
            ValueError: *ids* is empty, does not fit, or holds an id outside the vocabulary, for which onnxruntime would
                read out of bounds without an error.
        """
        self._check(ids)
        if len(ids) == 1:
            return self._step(ids[0])
        done = 0
        while done < len(ids):
            count = min(len(ids) - done, BORDER - self._length % BORDER)
            logits = self._several(ids[done : done + count], 1)
            done += count
            if count == BORDER and self._reusable == self._length - BORDER:
                self._reusable = self._length
        last: Logits = logits[-1]
        return last

    def append_rows(self, ids: Sequence[int]) -> Logits:
        """Run the model once over *ids*, at most `BORDER`, and return the logits after each, (ids, vocab_size).

        Only for a layout with `logit_rows`, a graph that gives all logits, or one id.

        Raises:
            ValueError: as of `append`.
        """
        self._check(ids)
        return self._several(ids, len(ids))

    def append_all(self, ids: Sequence[int]) -> Iterator[Logits]:
        """Run the model over *ids*, and yield the logits after each, in blocks; the next one overwrites a block.

        Where a graph gives the logits of the last position alone, it runs token by token.
        """
        size = BORDER if self._graph.all_logits or self._layout.logit_rows is not None else 1
        for start in range(0, len(ids), size):
            yield self.append_rows(ids[start : start + size])

    def rewind(self, length: int) -> None:
        """Drop all but the first *length* tokens, without running the model."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot rewind from {self._length} to {length}")
        self._length, self._reusable = length, min(self._reusable, length)

    def release(self) -> list[NDArray[Any]]:
        """End the sequence: return its buffers, cut down to the reusable tokens where that halves them."""
        if 2 * self._reusable > self._capacity:
            return self._kv
        for index, buffer in enumerate(self._kv):
            self._kv[index] = buffer[:, :, : self._reusable].copy()
        return self._kv

    def _step(self, token_id: int) -> Logits:
        self._token[0, 0] = token_id
        self._follow()
        if not self._step_bound:
            self._bind_rows(self._token, self._step_logits)
            self._step_bound = True
        only: Logits = self._run(self._step_logits, 1)[0]
        return only

    def _several(self, ids: Sequence[int], rows: int) -> Logits:
        """One run; returns the logits of at least the last *rows* positions."""
        block = np.asarray([ids], dtype=np.int64)
        rows = len(ids) if self._graph.all_logits else rows
        logits = np.empty((1, rows, self._layout.vocab_size), dtype=self._graph.logits_dtype)
        self._follow()
        self._bind_rows(block, logits)
        self._step_bound = False
        return self._run(logits, len(ids))

    def _run(self, logits: NDArray[Any], count: int) -> Logits:
        total = self._length + count
        layout, binding = self._layout, self._binding
        # The mask's width, not the buffers' shape, is what limits attention to the tokens in the cache.
        binding.bind_input(layout.attention_mask, "cpu", 0, np.int64, (1, total), self._mask_at)
        if self._graph.has_positions:  # a window of the prepared 0, 1, 2, ...: 8 bytes for each int64
            start = self._positions_at + 8 * self._length
            binding.bind_input(layout.position_ids, "cpu", 0, np.int64, (1, count), start)
        with native:
            self._session.run_with_iobinding(binding, self._options)
        self._length = total
        if self._steps_reusable:
            self._reusable = total
        rows: Logits = logits[0].astype(np.float32, copy=False)
        return rows

    def _check(self, ids: Sequence[int]) -> None:
        if not ids or self._length + len(ids) > self._capacity:
            raise ValueError(f"{len(ids)} ids do not fit behind {self._length} of {self._capacity}")
        if min(ids) < 0 or max(ids) >= self._layout.vocab_size:
            raise ValueError(f"an id is outside the vocabulary of {self._layout.vocab_size}")

    def _bind_rows(self, ids: NDArray[np.int64], logits: NDArray[Any]) -> None:
        layout, binding = self._layout, self._binding
        binding.bind_input(layout.input_ids, "cpu", 0, np.int64, ids.shape, ids.ctypes.data)
        binding.bind_output(layout.logits, "cpu", 0, logits.dtype.type, logits.shape, logits.ctypes.data)
        if self._gives_hidden:
            rows = ids.shape[1] if self._graph.all_hidden else logits.shape[1]
            hidden = self._hidden = np.empty((1, rows, self._graph.hidden_size), dtype=np.float32)
            binding.bind_output(layout.hidden_states, "cpu", 0, np.float32, hidden.shape, hidden.ctypes.data)
        if layout.logit_rows is not None:
            self._logit_rows[0] = logits.shape[1]
            binding.bind_input(layout.logit_rows, "cpu", 0, np.int64, (1,), self._logit_rows.ctypes.data)

    def _follow(self) -> None:
        """Bind the cache to the current session: one buffer per tensor, as past and as present."""
        session = self._sessions.session()
        if session is self._session:
            return
        self._session, self._binding, self._step_bound = session, session.io_binding(), False
        layout, shape, dtype = self._layout, self._shape, self._graph.kv_dtype.type
        for past, present, buffer in zip(layout.pasts, layout.presents, self._kv, strict=True):
            self._binding.bind_input(past, "cpu", 0, dtype, shape, buffer.ctypes.data)
            self._binding.bind_output(present, "cpu", 0, dtype, shape, buffer.ctypes.data)

    def _allocate(self, prefix: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """One buffer per cache tensor, filled from *prefix*.

        The returned list keeps the memory alive, since the binding holds bare pointers. *prefix* is emptied on the way,
        so that two whole caches never exist at once.
        """
        buffers = []
        for _ in self._layout.pasts:
            buffer = np.zeros(self._shape, dtype=self._graph.kv_dtype)
            if prefix:
                buffer[:, :, : self._length] = prefix.pop(0)[:, :, : self._length]
            buffers.append(buffer)
        return buffers
