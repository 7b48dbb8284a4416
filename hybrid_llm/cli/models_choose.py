"""`hybrid-llm models choose`: the variant of a model that keeps limits, from the results of a frontier."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hybrid_llm.cli.arguments import Command, add_json, checked
from hybrid_llm.cli.terminal import Exit, output, record
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.prepare.compression.frontier.choose import PREFERENCES, Choice, Limits, choose
from hybrid_llm.prepare.compression.frontier.variants import TEXTS, TOKENS, Frontier, Variant, read_frontier

_SIZE: Final = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMG]i?B|B)", re.IGNORECASE)
_UNITS: Final = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def megabytes(text: str) -> float:
    """`300MB` or `1.5GiB` in units of 10^6 bytes; ValueError for another form."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size such as 300MB or 1.5GiB")
    return float(match["number"]) * _UNITS[match["unit"].upper()] / 1e6


def share_or_value(text: str) -> tuple[bool, float]:
    """`95%` as (True, 0.95), `0.8` as (False, 0.8); ValueError for another form."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor a percentage such as 95%") from None
    if not 0 <= value < float("inf") or (percent and value > 100):
        raise ValueError(f"{text!r} is out of range")
    return percent, value / 100 if percent else value


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="?",
        type=Path,
        default=Path("results.json"),
        metavar="RESULTS",
        help="results.json of a step of kind `frontier`, or its folder; default: results.json",
    )
    parser.add_argument("--memory", type=checked(megabytes), metavar="SIZE", help="most memory of the process: 300MB")
    parser.add_argument("--size", type=checked(megabytes), metavar="SIZE", help="most room on the disk: 100MB")
    parser.add_argument(
        "--min-quality",
        type=checked(share_or_value),
        metavar="Q",
        help="least quality: 95%% of the best variant's, or a value such as 0.8 of the accuracy",
    )
    parser.add_argument("--max-perplexity", type=float, metavar="P", help="most perplexity")
    parser.add_argument("--min-tokens-per-s", type=float, metavar="N", help="least speed of a generator")
    parser.add_argument("--min-texts-per-s", type=float, metavar="N", help="least speed of a classifier")
    parser.add_argument("--prefer", choices=PREFERENCES, default=PREFERENCES[0], help="what the choice is best in")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    frontier = read_frontier(args.results)
    choice = choose(frontier, _limits(args, frontier), args.prefer)
    output(_document(choice), list(_lines(frontier, choice)), as_json=args.json)
    return Exit.OK if choice.chosen else Exit.FAILURE


def _limits(args: argparse.Namespace, frontier: Frontier) -> Limits:
    speeds = {TOKENS: args.min_tokens_per_s, TEXTS: args.min_texts_per_s}
    for unit, least in speeds.items():
        if least is not None and unit != frontier.unit:
            asked, has = (f"--min-{each.replace('_', '-')}" for each in (unit, frontier.unit))
            raise ConfigError(f"{asked}: the speed of these variants is in {frontier.unit}: use {has}")
    percent, least_quality = args.min_quality or (False, None)
    return Limits(
        memory_mb=args.memory,
        size_mb=args.size,
        least_speed=speeds[frontier.unit],
        least_quality=None if percent else least_quality,
        least_share=least_quality if percent else None,
        most_perplexity=args.max_perplexity,
    )


def _document(choice: Choice) -> dict[str, Any]:
    nearest = [record(variant) for variant in choice.nearest]
    return {"chosen": record(choice.chosen) if choice.chosen else None, "reasons": choice.reasons, "nearest": nearest}


def _lines(frontier: Frontier, choice: Choice) -> Iterator[str]:
    if choice.chosen:
        yield f"{choice.chosen.name}: {_figures(frontier, choice.chosen)}"
        yield f"folder  {choice.chosen.path}"
    else:
        yield "no variant keeps these limits; the nearest ones:"
        yield from (f"  {each.name}: {_figures(frontier, each)}" for each in choice.nearest)
    yield from (f"not {name}: {reason}" for name, reason in sorted(choice.reasons.items()))


def _figures(frontier: Frontier, variant: Variant) -> str:
    speed = f"{variant.speed:,.1f} {frontier.unit.replace('_per_', '/')}"
    size = f"{variant.size_mb:,.1f} MB, {variant.peak_memory_mb:,.0f} MB of memory"
    return f"{frontier.metric} {variant.quality:.4g}, {speed}, {size}"


CHOOSE: Final = Command(
    about="Choose among the variants of a model that a step of kind `frontier` has measured: the one that keeps all\n"
    "limits and has the best quality, or what --prefer says. The others are listed with the reason.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm models choose --memory 300MB --min-quality 95%",
        "hybrid-llm models choose build/frontier --size 100MB --max-perplexity 40 --min-tokens-per-s 20",
        "hybrid-llm models choose results.json --prefer speed --min-quality 0.78 --json",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
    meanings={Exit.FAILURE: "no variant keeps the limits; the nearest ones are listed"},
)
