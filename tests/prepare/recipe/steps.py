"""Steps without models: each writes one file that is a function of all it was given."""

from __future__ import annotations

import hashlib
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hybrid_llm.core.fields import Choice, Flag, ListOf, Number, Text, Whole, key
from hybrid_llm.prepare.step import DATA, MODEL, Input, Makes, Outcome, Work
from hybrid_llm.prepare.steps import register_step

RAN: list[tuple[str, ...]] = []
"""The options `text` and what was read, of each step that ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Mixes what it reads."""

    makes: ClassVar[Makes] = Makes.MODEL
    models: tuple[Input, ...] = key(ListOf(MODEL), "What to mix.", default=())
    data: Input | None = key(DATA, "More of it.", default=None)
    text: str = key(Text(), "Any text.", default="")
    score: float = key(Number(), "The metric that it reports.", default=1.0)
    pause_s: float = key(Number(), "How long it takes, seconds.", default=0.0)
    megabytes: int = key(Whole(), "How much it writes.", default=0)
    fail: str = key(Choice.of("", "value", "memory", "import", "cuda"), "How it fails.", default="")
    loud: bool = key(Flag(), "Whether it is loud.", default=False)

    def run(self, work: Work) -> Outcome:
        """Write `mix.bin`; the pause leaves a checkpoint, from which the next run goes on."""
        given = (*self.models, *([self.data] if self.data else []))
        RAN.append((self.text, *map(str, given)))
        self._wait(work)
        if self.fail:
            raise {"value": ValueError, "memory": MemoryError, "import": ImportError, "cuda": RuntimeError}[self.fail](
                "secret"
            )
        parts = [self.text, str(work.seed), *(_content(work.path(one)) for one in given)]
        (work.out / "deep").mkdir()
        (work.out / "deep" / "mix.bin").write_text(hashlib.sha256("|".join(parts).encode()).hexdigest())
        if self.megabytes:
            (work.out / "weights.bin").write_bytes(bytes(self.megabytes << 20))
        return Outcome(metrics={"score": self.score}, before={"score": 0.5}, card={"parameters": 7})

    def _wait(self, work: Work) -> None:
        checkpoint = work.scratch / "checkpoint"
        if self.pause_s and not checkpoint.exists():
            checkpoint.write_text("half of the work")
            work.progress("waiting", 0.5)
            time.sleep(self.pause_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words(Mix):
    """Makes data."""

    makes: ClassVar[Makes] = Makes.DATA


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge(Mix):
    """Makes a report."""

    makes: ClassVar[Makes] = Makes.REPORT


def _content(path: Path) -> str:
    if path.is_file():
        return path.read_text()
    mixed = path / "deep" / "mix.bin"
    made = mixed if mixed.is_file() else path / "train.jsonl"
    return made.read_text() if made.is_file() else path.name


def register() -> None:
    """Let recipes name them."""
    for kind, step in (("mix", Mix), ("words", Words), ("judge", Judge)):
        register_step(kind, step)


def main() -> int:
    """Run the recipe of the first argument in the folder of the second; files may have the bytes of a third."""
    from hybrid_llm.cli.main import main as command

    register()
    recipe, out, *limit = sys.argv[1:]
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))
    return command(["models", "run", recipe, "--out", out])


if __name__ == "__main__":
    # Under its own name, so that the steps are of one module.
    from tests.prepare.recipe.steps import main as own_main

    sys.exit(own_main())
