"""The scenes of the demonstration, in the order in which they are played.

What the demonstration prints: each scene as it is played, and the table at the end. It judges nothing itself.

`hybrid-llm demo`: play the scenes, check every expectation, and show the table.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hybrid_llm.cli.demo import faults, routing
from hybrid_llm.cli.demo.scene import Outcome, Scene, failed
from hybrid_llm.cli.demo.world import World
from hybrid_llm.cli.terminal import Exit
from hybrid_llm.core.errors import ConfigError, HybridLLMError

SCENES: Final = (
    Scene("plain", "nothing special", routing.plain),
    Scene("tagged phi", "declared private by the app", routing.tagged),
    Scene("private text", "a medical record number is found in it", routing.detected),
    Scene("too long", "more than the device's model can hold", routing.too_long),
    Scene("personal data", "two addresses and a number, for a form that a node fills in", routing.personal),
    Scene("device hot", "91 degrees, a given signal", routing.hot),
    Scene("battery low", "10 %, not charging, given signals", routing.battery),
    Scene("hard task", "the policy gives math to the larger model", routing.math),
    Scene("the same again", "a question that the cloud has answered before", routing.again),
    Scene("short deadline", "150 ms, and the nodes are 200 ms away and back", routing.deadline),
    Scene("budget used up", "1.995 of 2 USD are spent today, a given figure", routing.budget),
    Scene("streaming", "token by token from a node", routing.streaming),
    Scene("async", "six at once from one event loop", routing.concurrent),
    Scene("silent node", "the node of a conversation says nothing for two seconds", faults.silent),
    Scene("a node is killed", "one of two, while six answers stream", faults.node_gone),
    Scene("cut in mid-stream", "the network is lost after a dozen characters", faults.cut),
    Scene("offline", "the other node is stopped too", faults.offline),
    Scene("offline, too long", "nobody is left: a typed error", faults.nobody),
    Scene("back", "a node is started again", faults.back),
    Scene("broken policy", "three errors, written over the good one", routing.broken_policy),
    Scene("mended policy", "the file is put right", routing.mended_policy),
)


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


_NODE_MODEL: Final = Path("examples/models/hybrid-demo-node")
_FAILED: Final = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    from hybrid_llm.cli.arguments import describe

    describe(
        parser,
        "Make certificates, start two nodes, load the edge model, and send requests that each take another way.",
        examples=["hybrid-llm demo", "hybrid-llm demo --node-model examples/models/hybrid-demo-node"],
        codes=[Exit.CONFIG],
    )
    parser.add_argument("--node-model", type=Path, metavar="DIR", help=f"the node's model (default: {_NODE_MODEL})")


def run(args: argparse.Namespace) -> int:
    """Play; returns 0 if every expectation came true, 1 if not. ConfigError if a part is missing."""
    from hybrid_llm.cli.demo.world import World

    logging.getLogger("hybrid_llm").addHandler(logging.NullHandler())  # the scenes tell what matters themselves
    model = _node_model(args.node_model)
    began = time.monotonic()
    report = Report()
    report.say(f"making a private CA, starting two nodes over {model.name}, loading the edge model")
    with World(model) as world:
        report.say(f"ready after {time.monotonic() - began:.1f} s; the policy:\n\n{world.policy_text()}")
        report.play(world, SCENES)
    report.table()
    report.say(f"{report.total} requests, {time.monotonic() - began:.1f} s in all")
    if report.wrong:
        print(f"{report.wrong} expectations did not come true", file=sys.stderr)
        return _FAILED
    report.say("every expectation came true")
    return Exit.OK


def _node_model(given: Path | None) -> Path:
    """The folder of the node's model: the given one, that of the working folder, or that of the checkout."""
    checkout = Path(__file__).resolve().parents[3]
    places = [given] if given is not None else [_NODE_MODEL, checkout / _NODE_MODEL]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise ConfigError(
        f"no model for the node in {places[0]}; run this in a checkout, or name a folder with --node-model",
        path=str(places[0]),
    )
