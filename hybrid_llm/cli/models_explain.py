"""`hybrid-llm models explain`: which tokens an answer follows from, and why it takes its route."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import Command, add_json, at_least, read_prompt
from hybrid_llm.cli.terminal import Exit, Progress, note, output
from hybrid_llm.prepare.explain.explaining import explain
from hybrid_llm.prepare.explain.methods import METHODS
from hybrid_llm.prepare.explain.page import added_up
from hybrid_llm.prepare.explain.results import Explanation
from hybrid_llm.prepare.explain.routing import Routed, route
from hybrid_llm.prepare.explain.subject import Question
from hybrid_llm.prepare.explain.writing import PAGE_NAME, document, write

_TOP: Final = 8
"""Tokens of each method that are printed."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="a Hugging Face folder: a decoder or a classifier")
    parser.add_argument("text", metavar="TEXT", help="the text that the model reads; `-` for standard input")
    parser.add_argument("--label", default="", help="explain this label; default: the one that the model gives")
    parser.add_argument(
        "--continuation", default="", metavar="TEXT", help="explain this continuation; default: the token written next"
    )
    parser.add_argument("--chat", action="store_true", help="put the text into the chat template of the model")
    parser.add_argument(
        "--method", action="append", choices=tuple(METHODS), metavar="METHOD",
        help=f"{', '.join(METHODS)}; repeatable; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=at_least(8), default=64, metavar="N", help="of integrated gradients, at first (64)"
    )
    parser.add_argument("--orders", type=at_least(1), default=10, metavar="N", help="random orders beside them (10)")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of these orders (0)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="a hybrid.yaml: explain the route of the text too")
    parser.add_argument("--ask", action="store_true", help="send the text there, to see how sure each token is")
    parser.add_argument("--labels", nargs="+", default=[], metavar="LABEL", help="with --ask: answer with one of these")
    parser.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="a label less probable is asked of the next backend"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write a page and JSON there; they contain the text")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    if args.config is None and (args.ask or args.labels or args.threshold):
        note("hybrid-llm models explain: --ask, --labels and --threshold need --config")
        return Exit.USAGE
    text = read_prompt(args.text)
    found = _explained(args, text)
    routed = None
    if args.config is not None:
        routed = route(args.config, text, ask=args.ask, labels=tuple(args.labels), threshold=args.threshold)
    if args.out is not None:
        write(args.out, found, routed, text)
        note(f"a page in {args.out / PAGE_NAME}; it contains the text")
    output(document(found, routed), _lines(found, routed), as_json=args.json)
    return Exit.OK


def _explained(args: argparse.Namespace, text: str) -> Explanation:
    with Progress(args.model.name) as progress:
        return explain(
            args.model,
            Question(text=text, label=args.label, continuation=args.continuation, chat=args.chat),
            methods=tuple(dict.fromkeys(args.method or METHODS)),
            steps=args.steps,
            orders=args.orders,
            seed=args.seed,
            report=progress.step,
        )


def _lines(found: Explanation, routed: Routed | None) -> Iterator[str]:
    yield f"{found.model}: {found.target!r} with probability {found.probability:.3f}"
    for each in found.attributions:
        held = each.faithfulness
        yield ""
        yield f"{each.method}: deletion {held.deletion.area:.3f}, insertion {held.insertion.area:.3f}"
        ranked = sorted(zip(each.scores, found.pieces, strict=True), key=lambda pair: -abs(pair[0]))
        yield from (f"  {score:+8.3f}  {piece.text.strip()}" for score, piece in ranked[:_TOP])
        if each.convergence is not None:
            yield f"  {added_up(each.convergence)}"
    yield from (f"no {method}: {why}" for method, why in found.omitted.items())
    random = found.random
    yield ""
    yield f"{random.orders} random orders: deletion {random.deletion.area:.3f}, insertion {random.insertion.area:.3f}"
    if routed is not None:
        yield from ("", routed.decision.explain())
        yield from _answers(routed)


def _answers(routed: Routed) -> Iterator[str]:
    for answer in routed.answers:
        score = "" if answer.score is None else f" ({answer.score:.3f})"
        yield f"{answer.backend} answers{score}: {answer.text}"
        for token in sorted(answer.tokens, key=lambda token: token.probability)[:3]:
            yield f"  {token.probability:8.3f}  {token.text.strip()}"


EXPLAIN: Final = Command(
    about="Show which tokens of a text the answer of a model follows from, by several methods, and how far each\n"
    "holds: what happens when these tokens are taken away, beside random orders. With --config also why the\n"
    "text takes its route. Nothing is sent without --ask, and nothing is written without --out.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm models explain examples/models/hybrid-demo-node 'What is 12 + 30?' --chat --method occlusion",
        "hybrid-llm models explain examples/models/hybrid-demo-node 'Is it wet?' --config hybrid.yaml --out why",
        "hybrid-llm models explain models/sentiment 'A delight.' --label negative --json",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.ROUTING, Exit.BACKEND, Exit.SECURITY, Exit.INTERRUPTED),
)
"""The command."""
