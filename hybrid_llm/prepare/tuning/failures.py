"""The errors of a training, and their journey from a worker process to the one that started it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.core.errors import ConfigError, HybridLLMError
from hybrid_llm.core.jsontext import read_json

_MEMORY: Final = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's own errors have in their text, on the CPU and on GPUs."""
_DISK: Final = (
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "file write failed",
    "inline_container",  # torch, whose archive ends elsewhere than where it should
)


class TrainingFailed(HybridLLMError):
    """The training did not come to its end. What was saved at the last checkpoint is used by the next run."""


def disk_is_full(error: BaseException) -> bool:
    """Whether *error*, or what caused it, is that of a full disk; libraries wrap it in classes of their own."""
    seen: BaseException | None = error
    while seen is not None:
        if any(words in str(seen).lower() for words in _DISK):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn an error of torch that says that memory ran out into one that says what to do.

    Raises:
        TrainingFailed: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in _MEMORY):
            remedy = "lower `batch` or raise `accumulate`, lower `max_length`, or set `gradient_checkpointing: true`"
            raise TrainingFailed(f"the memory ran out in a step: {remedy}") from None
        raise


_CLASSES: Final[dict[str, type[HybridLLMError]]] = {
    each.__name__: each for each in (TrainingFailed, NoSpace, ConfigError)
}


def note_failure(run: Path, rank: int, error: HybridLLMError) -> None:
    """Leave *error* of process *rank* for `raise_noted`."""
    name = next((known for known, cls in _CLASSES.items() if isinstance(error, cls)), "TrainingFailed")
    noted = json.dumps({"class": name, "message": str(error)})
    (run / f"failure-{rank}.json").write_text(noted, encoding="utf-8")


def raise_noted(run: Path) -> None:
    """Raise the first error that a worker left in *run*, if one did."""
    for path in sorted(run.glob("failure-*.json")):
        noted = read_json(path)
        raise _CLASSES[noted["class"]](noted["message"])


def forget_failures(run: Path) -> None:
    """Delete what an earlier run left."""
    for path in run.glob("failure-*.json"):
        path.unlink()
