"""`hybrid-llm models KIND`: each kind of step as a command, whose options are the keys of the kind.

A command is made when its name is looked up in this module: `hybrid_llm.cli.steps:tune`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import Command, add_json
from hybrid_llm.cli.options import Option, add_options, given_values, options_of
from hybrid_llm.cli.recipes import followed, show, shown
from hybrid_llm.cli.terminal import Exit, print_error
from hybrid_llm.core.errors import PolicyError
from hybrid_llm.policies.reader.fields import Reader
from hybrid_llm.policies.reader.plain import KeyFaults
from hybrid_llm.prepare.recipe.alone import run_step
from hybrid_llm.prepare.recipe.document import Recipe, RecipeStep, step_table
from hybrid_llm.prepare.recipe.graph import check_links
from hybrid_llm.prepare.recipe.record import BelowFloor
from hybrid_llm.prepare.steps import STEPS

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "audit-privacy": (
        "attack a tuned model: can somebody tell which records it was tuned on?",
        "hybrid-llm models audit-privacy --model tuned --data reviews --out audit",
    ),
    "federate": (
        "serve a federated tuning: clients keep their data and send updates of LoRA weights",
        "hybrid-llm models federate --model base --labels negative positive --tls tls --clients 3 --out common",
    ),
    "federate-simulation": (
        "try a federated tuning with many clients in one process",
        "hybrid-llm models federate-simulation --model base --data reviews --clients 10 --out tried",
    ),
    "join": (
        "take part in a federated tuning with data that stays here",
        "hybrid-llm models join --server fed.test:8443 --model base --data ours --tls tls --certificate a --out seen",
    ),
    "tune-private": (
        "tune with differential privacy (DP-SGD)",
        "hybrid-llm models tune-private --model base --data reviews --target-epsilon 8 --out private",
    ),
    "distil": (
        "train a small model on what a large one knows",
        "hybrid-llm models distil --teacher base --data stories --layers 8 --steps 400 --out student",
    ),
    "prune": (
        "remove the parts of a model that matter least, and tune it again",
        "hybrid-llm models prune --model base --data stories --inner 1024 --steps 200 --out pruned",
    ),
    "quantise": (
        "store a model in 8 or 4 bits, for the device",
        "hybrid-llm models quantise --model sentiment --data reviews --method static --out sentiment-int8",
    ),
    "fuse": (
        "join the operators of a classifier's graph, which then needs less time",
        "hybrid-llm models fuse --model sentiment --data reviews --out sentiment-fused",
    ),
    "frontier": (
        "measure variants of a model, and show which no other beats",
        "hybrid-llm models frontier --models base pruned student --data stories --out frontier",
    ),
    "fetch": (
        "get weights or data, as a folder that other steps read",
        "hybrid-llm models fetch --source ./qwen-edge --licence MIT --out base",
    ),
    "prepare-data": (
        "clean, deduplicate, guard, split and pack data",
        "hybrid-llm models prepare-data --sources reviews.csv --splits train=80% test=20% --out reviews",
    ),
    "train-tokenizer": (
        "learn a tokenizer (byte-level BPE) from data",
        "hybrid-llm models train-tokenizer --data stories --vocabulary 8000 --out tokenizer",
    ),
    "create": (
        "create a model with weights drawn by a seed, which `tune` then trains",
        "hybrid-llm models create --tokenizer tokenizer --architecture llama --config hidden_size=256 --out new",
    ),
    "tune": (
        "tune a model on data: all weights, or a LoRA adapter",
        "hybrid-llm models tune --model base --data reviews --method lora --epochs 1 --out tuned",
    ),
    "merge": (
        "merge a LoRA adapter into its model",
        "hybrid-llm models merge --adapter adapter --base base --out merged",
    ),
}
"""Kind -> one line for the overview, and examples."""
_CODES: Final = (Exit.FAILURE, Exit.CONFIG, Exit.BACKEND, Exit.SECURITY, Exit.INTERRUPTED)
_MEANINGS: Final = {
    Exit.USAGE: "an option has a wrong value",
    Exit.FAILURE: "a metric misses a floor or ceiling, the step failed, or the disk is full",
}


def step_commands() -> dict[str, tuple[str, str]]:
    """Kind -> where its command is, and one line for the overview. No kind is imported."""
    return {kind: (f"{__name__}:{kind}", _summary(kind)) for kind in STEPS.names()}


def _summary(kind: str) -> str:
    return KINDS[kind][0] if kind in KINDS else f"do a step of the kind {kind}"


def __getattr__(kind: str) -> Command:
    if kind.startswith("_") or kind not in STEPS.names():
        raise AttributeError(f"module {__name__!r} has no attribute {kind!r}")
    return _command(kind)


def _command(kind: str) -> Command:
    options = options_of(step_table(kind))
    return Command(
        about=f"{step_table(kind).about}\n\n"
        f"The same as a step `kind: {kind}` of a recipe. Options are read as in a recipe; DIR gets a record and,\n"
        "if it is a model, a card.",
        options=partial(_add, options),
        run=partial(_run, kind, options),
        examples=KINDS.get(kind, ())[1:] or (_example(kind, options),),
        codes=_CODES,
        meanings=_MEANINGS,
    )


def _example(kind: str, options: tuple[Option, ...]) -> str:
    needed = (f"{option.flag} {option.example}" for option in options if option.required)
    return " ".join(("hybrid-llm models", kind, *needed, "--out", "OUT"))


def _add(options: tuple[Option, ...], parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the result")
    parser.add_argument("--force", action="store_true", help="replace what a step has left in DIR")
    add_json(parser)
    add_options(parser, options)


def _run(kind: str, options: tuple[Option, ...], args: argparse.Namespace) -> int:
    try:
        step = _read(kind, options, args)
    except PolicyError as error:
        print_error(error)
        return Exit.USAGE
    with followed(step.name) as progress:

        def report(what: str, share: float) -> None:
            progress.step(shown(progress, what), share)

        result = run_step(step, args.out, force=args.force, progress=report)
    show((result,), args.out.parent, as_json=args.json)
    if result.record is not None and result.record.breaches:
        raise BelowFloor(result.record.breaches)
    return Exit.OK


def _read(kind: str, options: tuple[Option, ...], args: argparse.Namespace) -> RecipeStep:
    """The step that the options are, checked as in a recipe."""
    faults = KeyFaults(f"hybrid-llm models {kind}")
    values = given_values(options, args, faults)
    faults.check()
    step = Reader(faults).read(step_table(kind), values, faults.what, args.out.name)
    faults.check()
    check_links(Recipe(name=kind, steps={step.name: step}))
    faults.check()
    return step  # type: ignore[no-any-return]
