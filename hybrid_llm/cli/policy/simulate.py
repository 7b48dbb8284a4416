"""`hybrid-llm policy simulate`: simulate a trace of requests under a policy and its baselines."""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from hybrid_llm import __version__
from hybrid_llm.cli.arguments import (
    POLICY_HELP,
    Command,
    add_backends,
    add_json,
    at_least,
    checked,
    policy_loader,
    policy_text,
)
from hybrid_llm.cli.terminal import Exit, Progress, note, print_json, printable, record
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.request import Location
from hybrid_llm.lab.simulate import trace as traces
from hybrid_llm.lab.simulate.compare import Comparison, Contestant, always, compare
from hybrid_llm.lab.simulate.report import report, rules_table, sentences, table, warnings
from hybrid_llm.lab.simulate.rtt import RoundTrips, constant_rtt, load_rtt
from hybrid_llm.lab.simulate.world import Setting, World, load_world, parse_world
from hybrid_llm.policies import Policy

_REQUESTS: Final = 10_000
_PER_HOUR: Final = 120.0
_TAG_SHARE: Final = 0.03
_HOURLY: Final = {"h": 1.0, "m": 60.0, "s": 3600.0}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", nargs="?", default="balanced", metavar="POLICY", help=POLICY_HELP)
    parser.add_argument(
        "--against", action="append", default=[], metavar="POLICY", help="a further baseline; repeatable"
    )
    _add_trace(parser.add_argument_group("requests"))
    _add_world(parser.add_argument_group("world"))
    add_backends(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report; needs the extra `report`")
    add_json(parser)


def _add_trace(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="an Azure or Mooncake trace (plain or .gz), or recorded decisions; default: a synthetic trace",
    )
    group.add_argument("--requests", type=at_least(1), metavar="N", help=f"the first N; synthetic: {_REQUESTS}")
    group.add_argument("--rate", type=checked(_rate), metavar="N/h", help="scale the gaps to this mean rate")
    group.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="TAG=SHARE",
        help="apps declare the tag for this share of the requests, such as phi=5%%; repeatable; `none` tags none",
    )
    group.add_argument(
        "--found",
        action="append",
        default=[],
        metavar="TAG=SHARE",
        help="detectors of the tag find something in this share of the requests; repeatable",
    )
    group.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the random numbers (1)")


def _add_world(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--rtt", metavar="TIME|FILE", help="round-trip time such as 30ms, a NetLatency .tar.xz, or a CSV seconds,rtt_ms"
    )
    group.add_argument(
        "--rtt-pair", type=checked(_pair), metavar="A,B", help="two devices of NetLatency; default: drawn at random"
    )
    for name, about in (("offline", "no route to the cloud"), ("metered", "a metered connection")):
        group.add_argument(
            f"--{name}",
            action="append",
            type=checked(traces.parse_span),
            default=[],
            metavar="FROM..TO",
            help=f"{about}, such as 10m..25m; repeatable",
        )
    group.add_argument("--world", type=Path, metavar="FILE", help="constants that override the defaults, in YAML")
    group.add_argument("--show-world", action="store_true", help="print all constants as such a file, and exit")
    group.add_argument(
        "--slo-ttft",
        type=checked(traces.parse_duration),
        metavar="TIME",
        help="objective of the first token; default: the policy's",
    )


def _rate(text: str) -> float:
    number, _, unit = text.partition("/")
    try:
        value = float(number) * _HOURLY[unit]
    except (ValueError, KeyError):
        value = float("nan")
    if not 0.0 < value < float("inf"):
        raise ValueError(f"`{text}` is not a rate such as 120/h, 2/m or 0.5/s")
    return value


def _pair(text: str) -> tuple[int, int]:
    a, _, b = text.partition(",")
    if not (a.isdecimal() and b.isdecimal()):
        raise ValueError(f"`{text}` is not two numbers such as 3,17")
    return int(a), int(b)


def _run(args: argparse.Namespace) -> int:
    world = load_world(args.world) if args.world is not None else parse_world("version: 1")
    if args.show_world:
        print(world.text(), end="")
        return Exit.OK
    if args.html is not None and find_spec("matplotlib") is None:  # before minutes of simulation
        raise ConfigError(f"--html needs matplotlib: {install_hint('report')}")
    comparison = _compare(args, world)
    if args.json:
        print_json(_document(args, comparison))
    else:
        print(f"{comparison.trace.source}; round trips: {comparison.setting.rtt.source}\n")
        print(printable(table(comparison)))
        print(printable("\n" + rules_table(comparison.summaries[0])))
        print(printable("\n" + "\n".join(sentences(comparison))))
    for warning in warnings(comparison):
        note(f"note: {warning}")
    if args.html is not None:
        args.html.write_text(report(comparison, command=_command(args), version=__version__), encoding="utf-8")
        note(f"report written to {args.html}")
    if any(one.bound_left for one in comparison.summaries):
        note("hybrid-llm: a request that must stay on the device was sent to the cloud; please report this bug")
        return Exit.SECURITY
    return Exit.OK


def _compare(args: argparse.Namespace, world: World) -> Comparison:
    contestants = _contestants(args)
    policy = contestants[0].policy
    trace = _tagged(args, _trace(args, world), policy)
    setting = Setting(
        world=world,
        rtt=_rtt(args, world),
        offline=traces.Spans(args.offline),
        metered=traces.Spans(args.metered),
        seed=args.seed,
    )
    goal_ms = args.slo_ttft * 1000.0 if args.slo_ttft is not None else policy.objectives.ttft_ms
    with Progress("simulating") as progress:

        def show(policy: str, share: float) -> None:
            progress.phase(policy, live_only=True)
            progress.update(share)

        return compare(contestants, trace, setting, goal_ms, show)


def _contestants(args: argparse.Namespace) -> list[Contestant]:
    policy, *others = map(policy_loader(args), (args.policy, *args.against))
    return [
        Contestant(policy=policy, text=policy_text(args.policy)),
        *(always(place, policy) for place in Location),
        *(Contestant(policy=other, text=policy_text(name)) for other, name in zip(others, args.against, strict=True)),
    ]


def _trace(args: argparse.Namespace, world: World) -> traces.Trace:
    if args.trace is None:
        starts = traces.parse_clock(world.battery.day_starts_at[0])
        count = args.requests or _REQUESTS
        return traces.synthetic(count, per_hour=args.rate or _PER_HOUR, seed=args.seed, day_starts_s=starts)
    trace = traces.load_trace(args.trace, limit=args.requests)
    return trace if args.rate is None else traces.at_rate(trace, args.rate)


def _tagged(args: argparse.Namespace, trace: traces.Trace, policy: Policy) -> traces.Trace:
    """The trace with the tags of the options; by default, some requests get a tag that keeps them on the device."""
    if args.tag or args.found:
        declared = {} if args.tag == ["none"] else dict(map(partial(_share, "tag"), args.tag))
        return traces.with_tags(trace, declared, dict(map(partial(_share, "found"), args.found)), seed=args.seed)
    if any(one.tags or one.found for one in trace.arrivals):
        return trace
    shares = {tag: _TAG_SHARE for tag, rule in policy.tags.items() if Location.CLOUD not in rule.allow}
    if shares:
        note(f"assumed tags: {', '.join(shares)}, each on {_TAG_SHARE:.0%} of the requests; change them with --tag")
    return traces.with_tags(trace, shares, seed=args.seed)


def _share(option: str, text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        value = float(share.removesuffix("%")) / 100.0 if share.endswith("%") else float("nan")
    except ValueError:
        value = float("nan")
    if not name or not 0.0 <= value <= 1.0:
        also = ", nor `none` alone" if option == "tag" else ""
        raise InvalidRequest(f"--{option}: `{text}` is not TAG=SHARE such as phi=5%{also}", field=option)
    return name, value


def _rtt(args: argparse.Namespace, world: World) -> RoundTrips:
    if args.rtt is None:
        return constant_rtt(world.network.rtt_ms)
    if args.rtt[:1].isdigit() and not Path(args.rtt).exists():
        try:
            return constant_rtt(traces.parse_duration(args.rtt) * 1000.0)
        except ValueError as error:
            raise InvalidRequest(f"--rtt: {error}", field="rtt") from None
    return load_rtt(Path(args.rtt), seed=args.seed, slice_s=world.network.slice_s, pair=args.rtt_pair)


def _document(args: argparse.Namespace, comparison: Comparison) -> dict[str, object]:
    return {
        "trace": comparison.trace.source,
        "round_trips": comparison.setting.rtt.source,
        "seed": comparison.setting.seed,
        "currency": comparison.currency,
        "goals": {"ttft_ms": comparison.goal_ms},
        "policies": [record(one) for one in comparison.summaries],
        "sentences": sentences(comparison),
        "world": {constant.name: constant.value for constant in comparison.setting.world.constants()},
        "command": _command(args),
    }


def _command(args: argparse.Namespace) -> str:
    """The command line that reproduces the result."""
    return shlex.join(["hybrid-llm", *(word for word in args.words if word != "--json")])


SIMULATE: Final = Command(
    about="Simulate a trace of requests under a policy and its baselines (always-edge, always-cloud, other policies),\n"
    "and compare routes, latency, missed service levels, cost, energy and privacy. Device, network and node are\n"
    "models: nothing is sent and no LLM runs. docs/simulation.md lists the formulas and every constant.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm policy simulate clinic.yaml",
        "hybrid-llm policy simulate clinic.yaml --against balanced --tag phi=10% --html report.html",
        "hybrid-llm policy simulate --trace AzureLLMInferenceTrace_conv.csv.gz --rate 120/h --requests 10000",
        "hybrid-llm policy simulate --rtt NetLatency-Seattle.tar.xz --offline 2h..3h --metered 10h..14h",
        "hybrid-llm policy simulate --show-world > world.yaml",
        "hybrid-llm policy simulate clinic.yaml --world world.yaml --json",
    ),
    codes=(Exit.CONFIG, Exit.SECURITY),
)
