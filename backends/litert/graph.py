"""Runs the `.tflite` file of an encoder. It has one signature for each length of row; a row is padded to the next."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hybrid_llm.backends.encoder.files import LITERT, ModelFiles, invalid
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.lifetime import native

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_INPUTS: Final = ("attention_mask", "input_ids")
_AGAIN: Final = "convert the model again, by `hybrid-llm models convert --to litert`"


class LiteRTGraph:
    """A graph in LiteRT. Thread-safe: rows are computed one after the other, as an interpreter has one set of buffers.

    Attributes:
        lengths: Tokens of the rows that it reads, ascending.
    """

    file: str = LITERT

    def __init__(self, files: ModelFiles, *, threads: int) -> None:
        """Open the file.

        Raises:
            ConfigError: LiteRT is not installed or rejects the file, or it is no graph of an encoder.
        """
        self._source = files.source
        self._lock = threading.Lock()
        self._interpreter = _open(files, threads)
        self._runners = self._by_length()
        self.lengths: Final = sorted(self._runners)
        self.longest: int | None = self.lengths[-1]

    def run(self, ids: Array, mask: Array) -> Array:
        """Logits of rows of token ids, none of them longer than `longest`.

        Raises:
            ValueError: a row is longer.
        """
        with self._lock:
            return np.stack([self._row(row, of) for row, of in zip(ids, mask, strict=True)])

    def _row(self, ids: Array, mask: Array) -> Array:
        length = next((length for length in self.lengths if length >= len(ids)), 0)
        if not length:
            raise ValueError(f"a row of {len(ids)} tokens is longer than {self.longest}")
        padding = (0, length - len(ids))
        feeds = {"input_ids": np.pad(ids, padding), "attention_mask": np.pad(mask, padding)}
        with native:
            found = self._runners[length](**{name: row[None].astype(np.int32) for name, row in feeds.items()})
        (logits,) = found.values()
        result: Array = logits[0]
        return result[: len(ids)] if result.ndim == 2 else result

    def _by_length(self) -> dict[int, Any]:
        """Tokens of a row -> what runs it."""
        runners = {}
        for name, signature in self._interpreter.get_signature_list().items():
            if tuple(sorted(signature["inputs"])) != _INPUTS or len(signature["outputs"]) != 1:
                raise invalid(self._source, f"signature `{name}` of {LITERT} is not of an encoder; {_AGAIN}")
            runner = self._interpreter.get_signature_runner(name)
            runners[self._length(name, runner.get_input_details())] = runner
        if not runners:
            raise invalid(self._source, f"{LITERT} has no signature; {_AGAIN}")
        return runners

    def _length(self, name: str, inputs: Mapping[str, Mapping[str, Any]]) -> int:
        shapes = {tuple(map(int, of["shape"])) for of in inputs.values()}
        (shape, *others) = shapes
        kinds = {of["dtype"] for of in inputs.values()}
        if others or len(shape) != 2 or shape[0] != 1 or kinds != {np.int32}:
            message = f"the inputs of signature `{name}` are not one row of 32-bit token ids; {_AGAIN}"
            raise invalid(self._source, message)
        return shape[1]


def _open(files: ModelFiles, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ConfigError(f"ai_edge_litert cannot be imported ({error}): {install_hint('litert')}") from error
    given = {"model_path": str(files.model)} if isinstance(files.model, Path) else {"model_content": files.model}
    try:
        return Interpreter(num_threads=threads, **given)
    except Exception as error:  # it raises ValueError, RuntimeError and others for broken files
        raise invalid(files.source, f"LiteRT cannot load {LITERT} ({type(error).__name__}); {_AGAIN}") from error
