"""What the demonstration prints: each scene as it is played, and the table at the end. It judges nothing itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from hybrid_llm.cli.demo.scene import Outcome, Scene, failed
from hybrid_llm.cli.demo.world import World
from hybrid_llm.router.errors import HybridLLMError

__all__ = ["Report"]

_HEADS: Final = ("request", "decision", "rule and reason", "backend", "TTFT ms", "all ms", "bytes out", "")
_REASON: Final = 36
"""Characters of a reason in the table; decisions tell all of it."""


class Report:
    """Plays the scenes and remembers their outcomes."""

    def __init__(self) -> None:
        self._outcomes: list[tuple[Scene, Outcome]] = []

    @property
    def total(self) -> int:
        """Scenes that were played."""
        return len(self._outcomes)

    @property
    def wrong(self) -> int:
        """Expectations that did not come true."""
        return sum(not check.true for _, outcome in self._outcomes for check in outcome.checks)

    @staticmethod
    def say(text: str) -> None:
        """Tell a person something."""
        print(text, flush=True)

    def play(self, world: World, scenes: Sequence[Scene]) -> None:
        """Play *scenes* in *world*, each after what the last one left behind has come to rest."""
        for scene in scenes:
            world.settle()
            self.say(f"\n--- {scene.title}: {scene.said}")
            try:
                outcome = scene.play(world)
            except HybridLLMError as error:
                outcome = failed(error)
            self._outcomes.append((scene, outcome))
            self._show(outcome)

    def _show(self, outcome: Outcome) -> None:
        if outcome.reply is not None:
            self.say(f"    {outcome.by or outcome.reply.backend}: {textwrap.shorten(outcome.reply.text, 90)}")
        for check in outcome.checks:
            self.say(f"    [{'ok' if check.true else 'WRONG'}] {check.text}")

    def table(self) -> None:
        """Print the table of all scenes."""
        rows = [_HEADS, *(_row(scene, outcome) for scene, outcome in self._outcomes)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
        self.say("")
        for number, row in enumerate(rows):
            self.say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            if number == 0:
                self.say("  ".join("-" * width for width in widths).rstrip())
        self.say("")


def _row(scene: Scene, outcome: Outcome) -> Sequence[str]:
    decision, reply = outcome.decision, outcome.reply
    return (
        scene.title,
        (" > ".join(decision.order) if decision else "") or "-",
        textwrap.shorten(_reason(outcome), _REASON, placeholder="..."),
        outcome.by or (reply.backend if reply else "-"),
        f"{reply.timings.ttft_ms:.0f}" if reply else "-",
        f"{reply.timings.total_ms:.0f}" if reply else "-",
        str(outcome.bytes_to_cloud),
        "ok" if all(check.true for check in outcome.checks) else "WRONG",
    )


def _reason(outcome: Outcome) -> str:
    decision = outcome.decision
    if decision is None:
        return "-"
    out = [f"not {name}: {why.split(' (')[0]}" for name, why in decision.excluded.items()]
    return "; ".join(out) if out else f"{decision.rule} {decision.because}"
