"""`hybrid-llm demo`: send every kind of request to an edge model and two nodes, check every expectation, print a table.

The nodes are child processes that import this package too, so the scenes are imported only when the demo runs.
"""

from __future__ import annotations

import argparse
import logging
import sys
import textwrap
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command
from hybrid_llm.cli.terminal import Exit, table
from hybrid_llm.core.errors import ConfigError, HybridLLMError

if TYPE_CHECKING:
    from hybrid_llm.cli.demo.world import Outcome, Scene, World

_COLUMNS: Final = ("request", "decision", "rule and reason", "backend", "TTFT ms", "E2E ms", "bytes out", "")
_NUMBERS: Final = frozenset({"TTFT ms", "E2E ms", "bytes out"})
_REASON_WIDTH: Final = 36
_NODE_MODEL: Final = Path("examples/models/hybrid-demo-node")
_say: Final = partial(print, flush=True)


class Report:
    """Plays scenes and prints their outcomes."""

    def __init__(self) -> None:
        self._outcomes: list[tuple[Scene, Outcome, int]] = []

    @property
    def total(self) -> int:
        """The number of scenes played."""
        return len(self._outcomes)

    @property
    def failed(self) -> int:
        """The number of expectations that were not met."""
        return sum(not check.passed for _, outcome, _ in self._outcomes for check in outcome.checks)

    def play(self, world: World, scenes: Sequence[Scene]) -> None:
        """Play *scenes*, each after the effects of the last one have settled."""
        from hybrid_llm.cli.demo.world import Check, Outcome

        for scene in scenes:
            world.settle()
            _say(f"\n--- {scene.title}: {scene.about}")
            try:
                outcome = scene.play(world)
            except HybridLLMError as error:
                name = type(error).__name__
                outcome = Outcome(checks=(Check(f"no {name}: {error}", False),), by=name)
            self._outcomes.append((scene, outcome, world.bytes_sent))
            if outcome.reply is not None:
                _say(f"    {outcome.by or outcome.reply.backend}: {textwrap.shorten(outcome.reply.text, 90)}")
            for check in outcome.checks:
                _say(f"    [{'ok' if check.passed else 'FAILED'}] {check.text}")

    def table(self) -> None:
        """Print the table of all scenes."""
        _say()
        table(_COLUMNS, [_row(*played) for played in self._outcomes], numbers=_NUMBERS)
        _say()


def _row(scene: Scene, outcome: Outcome, bytes_sent: int) -> Sequence[str]:
    decision, reply = outcome.decision, outcome.reply
    return (
        scene.title,
        (" > ".join(decision.order) if decision else "") or "-",
        textwrap.shorten(_reason(outcome), _REASON_WIDTH, placeholder="..."),
        outcome.by or (reply.backend if reply else "-"),
        f"{reply.timings.ttft_ms:.0f}" if reply else "-",
        f"{reply.timings.total_ms:.0f}" if reply else "-",
        str(bytes_sent),
        "ok" if all(check.passed for check in outcome.checks) else "FAILED",
    )


def _reason(outcome: Outcome) -> str:
    decision = outcome.decision
    if decision is None:
        return "-"
    excluded = [f"not {name}: {why.split(' (')[0]}" for name, why in decision.excluded.items()]
    return "; ".join(excluded) if excluded else f"{decision.rule} {decision.because}"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--node-model", type=Path, metavar="DIR", help=f"the nodes' model (default: {_NODE_MODEL})")


def _run(args: argparse.Namespace) -> int:
    from hybrid_llm.cli.demo.scenes import SCENES
    from hybrid_llm.cli.demo.world import World

    logging.getLogger("hybrid_llm").addHandler(logging.NullHandler())  # the scenes print what matters themselves
    model = _node_model(args.node_model)
    began = time.monotonic()
    report = Report()
    _say(f"creating a private CA, starting two nodes with {model.name}, loading the edge model")
    with World(model) as world:
        _say(f"ready after {time.monotonic() - began:.1f} s; the policy:\n\n{world.policy_text()}")
        report.play(world, SCENES)
    report.table()
    _say(f"{report.total} requests in {time.monotonic() - began:.1f} s")
    if report.failed:
        print(f"{report.failed} expectations were not met", file=sys.stderr)
        return Exit.FAILURE
    _say("every expectation was met")
    return Exit.OK


def _node_model(given: Path | None) -> Path:
    """The folder of the nodes' model: *given*, else that of the working directory or of the checkout."""
    checkout = Path(__file__).resolve().parents[3]
    folders = [given] if given is not None else [_NODE_MODEL, checkout / _NODE_MODEL]
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder
    raise ConfigError(
        f"no model for the nodes in {folders[0]}: run this in a checkout, or name a folder with --node-model",
        path=str(folders[0]),
    )


DEMO: Final = Command(
    about="Create certificates, start two nodes, load the edge model, and send requests that take every route: by\n"
    "tag, device, deadline, budget and task, with slow, dead and unreachable nodes. Every expectation is checked.",
    options=_options,
    run=_run,
    examples=("hybrid-llm demo", "hybrid-llm demo --node-model examples/models/hybrid-demo-node"),
    codes=(Exit.FAILURE, Exit.CONFIG),
    meanings={Exit.FAILURE: "an expectation was not met"},
)
