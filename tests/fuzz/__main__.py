"""Fuzz one parser or one door of a node guided by coverage: `python -m tests.fuzz "audit entry" -max_total_time=60`.

It needs atheris (`pip install atheris`; Linux, CPython to 3.13), which libFuzzer's options are passed on to. Without a
name it lists what there is. The node behind a door is another process: there libFuzzer changes inputs without seeing
what they reach, and an honest client asks after each. libFuzzer ends the process itself, so a folder of files stays in
the folder for temporary ones. The tests try the same by hypothesis: `HYBRID_LLM_FUZZ=100 pytest tests/fuzz`.

Exit status: 0 nothing was found, 2 usage; libFuzzer's own (77) where something was, and it writes the input to a file.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fuzz.doors import Door, Stage


def _choose(name: str, folder: Path, stack: ExitStack) -> tuple[Sequence[bytes], Callable[[bytes], None]] | None:
    """Valid inputs of the target *name*, and what takes one."""
    from tests.fuzz.doors import doors, stage
    from tests.fuzz.parsers import parsers

    for parser in parsers(folder):
        if parser.name == name:
            return parser.seeds, parser.check
    running = stack.enter_context(stage(folder / "node"))
    for door in doors(running):
        if door.name == name:
            return door.seeds, partial(_send, running, door)
    return None


def _send(running: Stage, door: Door, data: bytes) -> None:
    door.send(running, data)
    running.honest()


def main() -> int:
    try:
        import atheris
    except ImportError:
        print("this needs atheris: pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["hybrid_llm", "json", "yaml", "jwt"]):
        import tests.fuzz.parsers  # noqa: F401 - what it imports is instrumented
    from tests.fuzz.test_doors import NAMES as DOORS
    from tests.fuzz.test_parsers import NAMES as PARSERS

    name, *options = sys.argv[1:] or ("",)
    if name not in (*PARSERS, *DOORS):
        print(*PARSERS, *DOORS, sep="\n")
        return 2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hybrid-llm-fuzz-")))
        found = _choose(name, folder, stack)
        assert found is not None
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(found[0]):
            (corpus / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *options, str(corpus)], found[1])
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
