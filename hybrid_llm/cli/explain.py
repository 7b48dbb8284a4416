"""Signals that a person gives in place of live ones: `--signal device.battery=0.1`. It decides nothing itself.

`hybrid-llm explain`: who would answer a prompt, and why. Nothing is sent, and no model runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any

from hybrid_llm.cli.arguments import (
    add_config,
    add_json,
    add_prompt,
    add_request_options,
    describe,
    read_prompt,
    request_options,
)
from hybrid_llm.cli.policy.shared import AssumedBackend, add_backend, load_named_policy, parse_backends
from hybrid_llm.cli.terminal import Exit, decision_record, note, print_json, printable
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies import Objectives
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.spending.charge import Spending

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Backend
    from hybrid_llm.policies import PolicySource
    from hybrid_llm.router.config import Config


_WORDS = {"true": True, "yes": True, "false": False, "no": False}
_ABSENT = frozenset({"none", "null", ""})
_FIXED = frozenset({"name", "location"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One signal as given: *owner* is `device`, `network`, `budget` or a backend's name."""

    owner: str
    field: str
    value: object


class WhatIfFleet(Fleet):
    """The fleet of a client, with some signals overridden instead of read."""

    overrides: tuple[Override, ...] = ()

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The live signals with the overrides applied."""
        return amend(super().snapshot(metadata, objectives), self.overrides)


def amend(signals: Signals, overrides: Iterable[Override]) -> Signals:
    """*signals* with the given values in place."""
    for override in overrides:
        change: dict[str, Any] = {override.field: override.value}
        if override.owner == "device":
            signals = replace(signals, device=replace(signals.device, **change))
        elif override.owner == "network":
            signals = replace(signals, network=replace(signals.network, **change))
        elif override.owner == "budget":
            signals = replace(signals, budget=replace(signals.budget, **change))
        else:
            states = dict(signals.backends)
            states[override.owner] = replace(states[override.owner], **change)
            signals = replace(signals, backends=states)
    return signals


def parse_overrides(texts: Iterable[str], backends: Mapping[str, Location]) -> tuple[Override, ...]:
    """Read `OWNER.FIELD=VALUE`; a location stands for its first backend, as it does in a policy.

    Raises:
        InvalidRequest: an unknown name, with the nearest known one, or a value of the wrong type.
    """
    return tuple(_parse(text, backends) for text in texts)


def _parse(text: str, backends: Mapping[str, Location]) -> Override:
    path, equals, value = text.partition("=")
    owner, dot, name = path.strip().rpartition(".")
    if not equals or not dot:
        raise _wrong(f"{text!r} is not NAME.FIELD=VALUE, such as device.battery=0.1")
    owner, record = _owner(owner, backends)
    known = {field.name: field for field in fields(record) if field.name not in _FIXED}
    if name not in known:
        raise _wrong(f"`{owner}` has no signal `{name}`: {did_you_mean(name, known)}")
    hint = typing.get_type_hints(record)[name]
    return Override(owner=owner, field=name, value=_value(value.strip(), hint, f"{owner}.{name}"))


def _owner(owner: str, backends: Mapping[str, Location]) -> tuple[str, type]:
    records: dict[str, type] = {"device": DeviceSignals, "network": NetworkSignals, "budget": BudgetSignals}
    if owner in records:
        return owner, records[owner]
    if owner in backends:
        return owner, BackendState
    here = [name for name, place in backends.items() if place.value == owner]
    if here:
        return here[0], BackendState
    raise _wrong(f"there is nothing named `{owner}`: {did_you_mean(owner, [*records, *backends])}")


def _value(text: str, hint: Any, name: str) -> object:
    if isinstance(hint, UnionType):
        if text.lower() in _ABSENT and NoneType in hint.__args__:
            return None
        hint = next(part for part in hint.__args__ if part is not NoneType)
    try:
        return _bool(text) if hint is bool else hint(text)
    except (ValueError, KeyError):
        raise _wrong(f"{name}: {text!r} is not {_says(hint)}") from None


def _bool(text: str) -> bool:
    return _WORDS[text.lower()]


def _says(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "one of " + ", ".join(hint)
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "usable")


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest(f"--signal: {message}", field="signal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Tell who would answer a prompt, and why: order, exclusions, and what each rule saw. Nothing is sent.\n"
        "It explains with exit code 0 also when nobody would be eligible.",
        examples=[
            "hybrid-llm explain 'Patient 4711 has a fever.' --config hybrid.yaml --privacy phi",
            "hybrid-llm explain Hello --policy clinic.yaml --signal device.battery=0.1 --signal device.charging=false",
            "hybrid-llm explain Hello --policy fleet.yaml --backend phone=edge --backend eu=cloud --json",
        ],
        codes=(Exit.CONFIG, Exit.INTERRUPTED),
    )
    parser.add_argument(
        "--policy", metavar="FILE", help="a policy file or the name of a built-in one; see `policy list`"
    )
    add_situation(parser)


def add_situation(parser: argparse.ArgumentParser, *, prompt: bool = True) -> None:
    """Add what is explained: the prompt, if *prompt* says that it is needed, its options, backends and signals."""
    add_prompt(parser, needed=prompt)
    places = parser.add_mutually_exclusive_group()
    add_config(places)
    add_backend(places)
    parser.add_argument(
        "--signal",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="take this value instead of the live one, such as device.battery=0.1, cloud.ready=false, edge.queue=3",
    )
    add_request_options(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Decide, and tell."""
    prompt, options = read_prompt(args.prompt), request_options(args)
    with _pipeline(args) as pipeline:
        decision = pipeline.route(prompt, options).decision
    return show(decision, as_json=args.json)


def show(decision: Decision, *, as_json: bool) -> int:
    """Print a decision with its trace."""
    if as_json:
        print_json(decision_record(decision))
    else:
        print(printable(decision.explain()))
    return Exit.OK


@contextlib.contextmanager
def _pipeline(args: argparse.Namespace) -> Iterator[Pipeline]:
    """The way up to a decision; everything that it opened is closed again."""
    config = _config(args)
    backends, policies = _parts(args, config)
    ledger = config.open_ledger() if config is not None else None
    fleet = WhatIfFleet(
        backends,
        policies.current,
        sensors=SystemSensors(),
        spending=Spending(config.prices if config is not None else {}, ledger),
        predictions=config.open_predictions() if config is not None else None,
    )
    pipeline = Pipeline(
        fleet,
        policies,
        PrivacyGuard(config.open_detectors() if config is not None else ()),
        defaults=config.defaults if config is not None else None,
    )
    try:
        fleet.overrides = parse_overrides(args.signal, {name: b.location for name, b in fleet.backends.items()})
        yield pipeline
    finally:
        pipeline.close()
        for backend in backends:
            backend.close()


def _config(args: argparse.Namespace) -> Config | None:
    from hybrid_llm.router.config import load_config
    from hybrid_llm.router.default import CONFIG_VARIABLE

    path = args.config or (None if args.policy or args.backend else os.environ.get(CONFIG_VARIABLE))
    return load_config(Path(path)) if path else None


def _parts(args: argparse.Namespace, config: Config | None) -> tuple[list[Backend], PolicySource]:
    from hybrid_llm.policies import FixedPolicy

    if config is not None and args.policy is None:
        policies = config.open_policy()
        return config.open_backends(), policies
    locations = config.locations if config is not None else _assumed(args)
    policy = load_named_policy(args.policy or "balanced", locations, config.detector_names if config else frozenset())
    if config is not None:
        return config.open_backends(), FixedPolicy(policy)
    return [_backend(args, name, place) for name, place in locations.items()], FixedPolicy(policy)


def _assumed(args: argparse.Namespace) -> Mapping[str, Location]:
    """Without a configuration and a policy, what `generate` uses: the embedded model alone."""
    if args.policy is None and not args.backend:
        return {"edge": Location.EDGE}
    locations = parse_backends(args.backend)
    note(f"assumed backends: {', '.join(locations)}; change them with --backend and --signal, or give --config")
    return locations


def _backend(args: argparse.Namespace, name: str, place: Location) -> Backend:
    if args.policy is not None or args.backend:
        return AssumedBackend(name, place)
    from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig

    return EdgeBackend(EdgeConfig(name=name))
