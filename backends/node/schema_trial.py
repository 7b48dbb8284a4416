"""Compiles a new schema in a process of its own, with little time and memory, before the engine sees it.

What the rules of `schema_rules` do not foresee then costs only its own request. `python -m` this module is the process:
it reads the schema from standard input, and writes a verdict to standard output.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from hybrid_llm.backends.node import children
from hybrid_llm.backends.schema import UnusableSchema, check_schema

_CPU_S: Final = 2
_MEMORY_BYTES: Final = 1 << 30
_AT_ONCE: Final = 2
_REMEMBERED: Final = 1024
_USABLE: Final = "usable"
_VERDICTS: Final = {
    _USABLE: "",
    "invalid_argument": "the output_schema cannot be turned into a grammar",
    "unsupported": "the output_schema cannot be turned into a grammar",
    "too costly": "the output_schema takes too much time or memory to be turned into a grammar",
}
"""What the process may write -> what is said of the schema, without quoting it."""
_KILLED: Final = -getattr(signal, "SIGKILL", signal.SIGTERM)


class SchemaTrials:
    """Tries each schema once, and remembers the verdicts by keyed digests. Used from one event loop.

    *worker* are the arguments of Python that run the process, which may take *wall_s* seconds.
    """

    def __init__(self, *, worker: Sequence[str] = ("-m", __name__), wall_s: float = 10.0) -> None:
        self._worker, self._wall_s = worker, wall_s
        self._key = secrets.token_bytes(32)
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def check(self, schema: str) -> None:
        """Return if *schema* can be used.

        Raises:
            UnusableSchema: it cannot be enforced, or compiling it takes more than 2 s of a processor or 1 GiB.
            TimeoutError: this machine is too busy to find out, which says nothing about the schema.
        """
        text = schema.encode("utf-8", "surrogatepass")
        digest = blake2b(text, key=self._key, digest_size=16).digest()
        if digest not in self._verdicts:
            async with self._places:
                self._verdicts[digest] = await self._try(text)
        self._verdicts.move_to_end(digest)
        while len(self._verdicts) > _REMEMBERED:
            self._verdicts.popitem(last=False)
        verdict = self._verdicts[digest]
        if verdict != _USABLE:
            reason = "invalid_argument" if verdict == "invalid_argument" else "unsupported"
            raise UnusableSchema(_VERDICTS[verdict], reason=reason)

    async def _try(self, schema: bytes) -> str:
        process = await children.spawn(self._worker, stderr=DEVNULL)
        try:
            async with asyncio.timeout(self._wall_s):
                out, _ = await process.communicate(schema)
            if process.returncode == _KILLED:  # not by its own limits: the machine lacks memory
                raise TimeoutError
        finally:
            await children.end(process)
        verdict = out.decode("ascii", "replace")
        return verdict if verdict in _VERDICTS else "too costly"  # ended at a limit, it writes nothing


def main() -> None:
    """Compile the schema on standard input within the limits, up to the first set of tokens that it allows."""
    limit()
    sys.stdout.write(_verdict(sys.stdin.buffer.read()))


def limit() -> None:
    """Bound this process's time and memory; SIGXCPU ends it at the first, and an allocation fails at the second."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _verdict(text: bytes) -> str:
    from llguidance import LLMatcher, LLTokenizer

    try:
        matcher = LLMatcher(LLTokenizer("byte"), check_schema(text.decode("utf-8", "surrogatepass")), log_level=0)
    except UnusableSchema as error:
        return error.reason
    matcher.compute_bitmask()
    return "too costly" if matcher.is_error() else _USABLE


if __name__ == "__main__":
    main()
