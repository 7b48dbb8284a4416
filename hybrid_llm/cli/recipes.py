"""`hybrid-llm models run` and `card`: recipes of models, and what became of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import Command, add_json
from hybrid_llm.cli.terminal import Exit, Progress, note, output, print_json, table
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.prepare.recipe.document import Recipe, read_recipe, recipe_schema
from hybrid_llm.prepare.recipe.record import BelowFloor
from hybrid_llm.prepare.recipe.runner import NO_RESULT, StepResult, plan_recipe, run_recipe

_COUNT: Final = re.compile(r"(?:^|[ ,(]+)\d")
_FIGURES: Final = 4
"""Metrics of a step that its row has room for."""


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the results; default: models/NAME")
    parser.add_argument("--only", default="", metavar="STEP", help="run this step alone, and those that it reads")
    parser.add_argument(
        "--force", action="append", default=[], metavar="STEP", help="run this step although it is up to date"
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would run, and why; nothing is written")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of recipes, for editors")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    if args.schema:
        print_json(recipe_schema())
        return Exit.OK
    if args.recipe is None:
        note("hybrid-llm models run: name a recipe, such as recipe.yaml")
        return Exit.USAGE
    recipe = read_recipe(args.recipe)
    out = args.out or Path("models") / recipe.name
    if args.dry_run:
        results = plan_recipe(recipe, out, only=args.only, force=args.force)
    else:
        results = _followed(recipe, out, args)
    show(results, out, as_json=args.json)
    missed = tuple(breach for one in results if one.record is not None for breach in one.record.breaches)
    refused = {one.name: one.refused for one in results if one.refused}
    if missed or refused:
        raise BelowFloor(missed, refused)
    return Exit.OK


def _followed(recipe: Recipe, out: Path, args: argparse.Namespace) -> tuple[StepResult, ...]:
    with followed(recipe.name) as progress:

        def report(step: str, what: str, share: float) -> None:
            progress.step(f"{step}: {shown(progress, what)}", share)

        return run_recipe(recipe, out, only=args.only, force=args.force, report=report)


def shown(progress: Progress, what: str) -> str:
    """*what* a step is doing, in a log without counts: it has a line for each quarter, not one for each number."""
    return what if progress.live else _COUNT.split(what)[0]


@contextmanager
def followed(label: str) -> Iterator[Progress]:
    """Show progress, and after Ctrl-C how to go on."""
    with Progress(label) as progress:
        try:
            yield progress
        except KeyboardInterrupt:
            progress.clear()
            note("interrupted: run it again to go on")
            raise


def show(results: tuple[StepResult, ...], out: Path, *, as_json: bool) -> None:
    """Print what became of each step."""
    if as_json:
        print_json([{**_plain(one), "folder": str(out / one.name)} for one in results])
        return
    table(("step", "kind", "state", "s", "figures"), [_row(one) for one in results], numbers={"s"})


def _plain(result: StepResult) -> dict[str, object]:
    plain: Mapping[str, object] = jsonable(result)  # type: ignore[assignment]
    return {**plain, "due": result.is_due}


def _row(result: StepResult) -> tuple[str, ...]:
    record = result.record
    if record is None:
        return result.name, result.kind, f"{'refused' if result.refused else 'to run'}: {result.why}", "", ""
    state = result.why if not result.is_due else "done" if result.why in ("", NO_RESULT) else f"done: {result.why}"
    return result.name, result.kind, state, f"{record.cost.seconds:,.1f}", figures(record.metrics, record.before)


def figures(metrics: Mapping[str, float], before: Mapping[str, float]) -> str:
    """The first metrics, such as `accuracy 0.51 -> 0.77`."""
    shown = (
        f"{name} {amount(before[name])} -> {amount(value)}"
        if before.get(name) is not None
        else f"{name} {amount(value)}"
        for name, value in list(metrics.items())[:_FIGURES]
        if value is not None
    )
    return ", ".join(shown)


def amount(value: float) -> str:
    """*value* with four digits, or with all of those before the point: `0.5012`, `10,662`."""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


RUN: Final = Command(
    about="Run the steps of a recipe that are not up to date, and leave models with cards. An interrupted run goes on\n"
    "where it was. A metric under its floor makes what is made of it unpublishable.",
    options=_run_options,
    run=_run,
    examples=(
        "hybrid-llm models run recipe.yaml",
        "hybrid-llm models run recipe.yaml --dry-run",
        "hybrid-llm models run recipe.yaml --out build --only base --force base",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.SECURITY, Exit.INTERRUPTED),
    meanings={Exit.FAILURE: "a metric misses a floor or ceiling of the recipe, a step failed, or the disk is full"},
)


def _card_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a model")
    add_json(parser)


def _card(args: argparse.Namespace) -> int:
    from hybrid_llm.prepare.recipe.card import read_card
    from hybrid_llm.prepare.recipe.page import model_page

    card = read_card(args.folder)
    output(card, _lines(model_page(card, args.folder)), as_json=args.json)
    return Exit.OK


def _lines(page: str) -> Iterator[str]:
    yield from page.split("---\n", 2)[2].strip().splitlines()


CARD: Final = Command(
    about="Print the card of a model: its licence, what it is made of, figures before and after each step, and cost.",
    options=_card_options,
    run=_card,
    examples=("hybrid-llm models card models/sentiment/base", "hybrid-llm models card models/sentiment/base --json"),
    codes=(Exit.CONFIG,),
)
