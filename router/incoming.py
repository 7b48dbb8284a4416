"""A call of the app while it is being routed: when it came, how long it may take, and what is being done with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from hybrid_llm.core.errors import DeadlineExceeded
from hybrid_llm.core.request import GenerateOptions, Message, Prompt

T = TypeVar("T")
SHORT: Final = 2048
"""Characters of a prompt up to which counting and scanning take less than about 3 ms."""


@dataclass(slots=True, kw_only=True)
class Incoming:
    """One call. *created* is read from the clock before anything else is done."""

    prompt: Prompt = field(repr=False)
    options: GenerateOptions = field(repr=False)
    created: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    """Seconds from *created*; None until the option is checked."""
    phase: str = "loading"
    """What is being done."""

    @property
    def is_short(self) -> bool:
        """Whether it is read so fast that an event loop may wait for it; a schema or tools are parsed and compiled."""
        options = self.options
        return options.get("output_schema") is None and not options.get("tools") and _size(self.prompt) <= SHORT

    async def within(self, work: Awaitable[T]) -> T:
        """Wait for *work* until the deadline; before it is checked, until what the call asks for, if it is a number."""
        deadline = self.options.get("deadline") if self.deadline is None else self.deadline
        known = isinstance(deadline, int | float) and deadline > 0.0
        remaining = self.created + deadline - time.monotonic() if known and deadline is not None else None
        try:
            async with asyncio.timeout(remaining):
                return await work
        except TimeoutError:
            pass
        raise self.late()  # here, where the timeout and its frames are not the context

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Report during what the deadline passed in the block."""
        try:
            yield
            return
        except DeadlineExceeded as error:
            if error.phase:
                raise
        raise self.late()

    def late(self) -> DeadlineExceeded:
        """The error of a call whose deadline passed before any backend was called."""
        elapsed = time.monotonic() - self.created
        limit = f" of {self.deadline:g} s" if self.deadline is not None else ""
        message = f"the deadline{limit} passed during {self.phase}; no backend was called"
        return DeadlineExceeded(message, backend="", elapsed=elapsed, phase=self.phase)


def _size(prompt: object) -> int:
    """Characters of what will be checked to be a prompt."""
    if isinstance(prompt, Message):
        prompt = prompt.content
    if isinstance(prompt, str):
        return len(prompt)
    if isinstance(prompt, Mapping):
        return _size(prompt.get("content"))
    if isinstance(prompt, list | tuple):
        return sum([_size(each) for each in prompt]) + len(prompt) * 16
    return 0
