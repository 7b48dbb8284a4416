"""`hybrid-llm explain` and `policy explain`: show which backend would answer a prompt, and why.

Nothing is sent and no model runs. Signals are read live, or set with `--signal device.battery=0.1`.
"""

from __future__ import annotations

import argparse
import contextlib
import typing
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final

from hybrid_llm.cli.arguments import (
    POLICY_HELP,
    Command,
    add_backend,
    add_config,
    add_json,
    add_prompt,
    add_request_options,
    default_config,
    load_config_or_default,
    load_named_policy,
    parse_backends,
    read_prompt,
    request_options,
)
from hybrid_llm.cli.terminal import Exit, decision_record, note, print_json, printable
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import BackendUnavailable, InvalidRequest
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Backend, Capabilities
from hybrid_llm.core.request import Location, Request, RequestMetadata, estimate_tokens
from hybrid_llm.core.signals import BackendState, BudgetSignals, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies import FixedPolicy, Objectives, PolicySource
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.config import Config
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.observability.records import read_recordings
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.spending.charge import Spending

_BOOLEANS: Final = {"true": True, "yes": True, "false": False, "no": False}
_ABSENT: Final = frozenset({"none", "null", ""})
_FIXED: Final = frozenset({"name", "location"})
_CONTEXT_WINDOW: Final = {Location.EDGE: 2048, Location.CLOUD: 32768}
_OWNERS: Final[Mapping[str, type]] = {"device": DeviceSignals, "network": NetworkSignals, "budget": BudgetSignals}


class AssumedBackend:
    """A backend without a model: always ready and idle, so that a policy can be tried before anything is deployed."""

    def __init__(self, name: str, location: Location) -> None:
        self.name = name
        self.location = location
        self.capabilities = Capabilities(model="assumed", context_window=_CONTEXT_WINDOW[location])

    def state(self) -> BackendState:
        """Ready and idle."""
        return BackendState(name=self.name, location=self.location, context_window=self.capabilities.context_window)

    def count_tokens(self, request: Request) -> int:
        """An estimate, as there is no tokenizer."""
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Always raises `BackendUnavailable`."""
        raise self._unavailable(cleared)

    def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Always raises `BackendUnavailable`."""
        raise self._unavailable(cleared)

    def _unavailable(self, cleared: Cleared) -> BackendUnavailable:
        require_clearance(cleared, self.location)
        return BackendUnavailable(f"{self.name} is assumed, not configured: give --config", backend=self.name)

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A signal set by `--signal`; *owner* is `device`, `network`, `budget` or the name of a backend."""

    owner: str
    field: str
    value: object


class _WhatIfFleet(Fleet):
    """The fleet of a client, with some signals overridden."""

    overrides: tuple[Override, ...] = ()

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The live signals with the overrides applied."""
        return apply_overrides(super().snapshot(metadata, objectives), self.overrides)


def apply_overrides(signals: Signals, overrides: Iterable[Override]) -> Signals:
    """*signals* with the values of *overrides*."""
    for override in overrides:
        change: dict[str, Any] = {override.field: override.value}
        if override.owner in _OWNERS:
            part: Any = replace(getattr(signals, override.owner), **change)
            signals = replace(signals, **{override.owner: part})
        else:
            states = dict(signals.backends)
            states[override.owner] = replace(states[override.owner], **change)
            signals = replace(signals, backends=states)
    return signals


def parse_overrides(texts: Iterable[str], backends: Mapping[str, Location]) -> tuple[Override, ...]:
    """Read `OWNER.FIELD=VALUE`; a location stands for its first backend, as in policies.

    Raises:
        InvalidRequest: an unknown name, with the nearest known one, or a value of the wrong type.
    """
    return tuple(_parse_override(text, backends) for text in texts)


def _parse_override(text: str, backends: Mapping[str, Location]) -> Override:
    path, equals, value = text.partition("=")
    owner, dot, name = path.strip().rpartition(".")
    if not equals or not dot:
        raise _invalid(f"{text!r} is not NAME.FIELD=VALUE, such as device.battery=0.1")
    owner, record = _find_owner(owner, backends)
    known = {field.name: field for field in fields(record) if field.name not in _FIXED}
    if name not in known:
        raise _invalid(f"`{owner}` has no signal `{name}`: {did_you_mean(name, known)}")
    hint = typing.get_type_hints(record)[name]
    return Override(owner=owner, field=name, value=_parse_value(value.strip(), hint, f"{owner}.{name}"))


def _find_owner(owner: str, backends: Mapping[str, Location]) -> tuple[str, type]:
    if owner in _OWNERS:
        return owner, _OWNERS[owner]
    if owner in backends:
        return owner, BackendState
    at_location = [name for name, location in backends.items() if location.value == owner]
    if at_location:
        return at_location[0], BackendState
    raise _invalid(f"`{owner}` is unknown: {did_you_mean(owner, [*_OWNERS, *backends])}")


def _parse_value(text: str, hint: Any, name: str) -> object:
    if isinstance(hint, UnionType):
        if text.lower() in _ABSENT and NoneType in hint.__args__:
            return None
        hint = next(part for part in hint.__args__ if part is not NoneType)
    try:
        return _BOOLEANS[text.lower()] if hint is bool else hint(text)
    except (ValueError, KeyError):
        raise _invalid(f"{name}: {text!r} is not {_expected(hint)}") from None


def _expected(hint: Any) -> str:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "one of " + ", ".join(hint)
    return {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "a valid value")


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"--signal: {message}", field="signal")


def _add_situation(parser: argparse.ArgumentParser, *, prompt: bool = True) -> None:
    """Add the prompt (required if *prompt*), the request's options, the backends and the signals."""
    add_prompt(parser, required=prompt)
    group = parser.add_mutually_exclusive_group()
    add_config(group)
    add_backend(group)
    parser.add_argument(
        "--signal",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a live signal, such as device.battery=0.1, cloud.ready=false, edge.queue=3; repeatable",
    )
    add_request_options(parser)
    add_json(parser)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", metavar="POLICY", help=POLICY_HELP)
    _add_situation(parser)


def _explain(args: argparse.Namespace) -> int:
    prompt, options = read_prompt(args.prompt), request_options(args)
    with _open_pipeline(args) as pipeline:
        decision = pipeline.route(prompt, options).decision
    return _show(decision, as_json=args.json)


def _show(decision: Decision, *, as_json: bool) -> int:
    if as_json:
        print_json(decision_record(decision))
    else:
        print(printable(decision.explain()))
    return Exit.OK


@contextlib.contextmanager
def _open_pipeline(args: argparse.Namespace) -> Iterator[Pipeline]:
    """The pipeline that the options describe, closed at the end."""
    # --policy and --backend without --config describe a situation of their own: HYBRID_LLM_CONFIG does not apply.
    assumed = args.config is None and bool(args.policy or args.backend)
    config = default_config() if assumed else load_config_or_default(args.config)
    backends = _assumed_backends(args) if assumed else config.open_backends()
    policies = _policies(args, config, backends)
    fleet = _WhatIfFleet(
        backends,
        policies.current,
        sensors=SystemSensors(),
        spending=Spending(config.prices, config.open_ledger()),
        predictions=None if assumed else config.open_predictions(),
    )
    pipeline = Pipeline(fleet, policies, PrivacyGuard(config.open_detectors()), defaults=config.defaults)
    try:
        fleet.overrides = parse_overrides(args.signal, _locations(backends))
        yield pipeline
    finally:
        pipeline.close()
        for backend in backends:
            backend.close()


def _assumed_backends(args: argparse.Namespace) -> list[Backend]:
    locations = parse_backends(args.backend)
    note(f"assumed backends: {', '.join(locations)}; change them with --backend and --signal, or give --config")
    return [AssumedBackend(name, location) for name, location in locations.items()]


def _locations(backends: Iterable[Backend]) -> dict[str, Location]:
    return {backend.name: backend.location for backend in backends}


def _policies(args: argparse.Namespace, config: Config, backends: Iterable[Backend]) -> PolicySource:
    if args.policy is None and not args.backend:
        return config.open_policy()
    return FixedPolicy(load_named_policy(args.policy or "balanced", _locations(backends), config.detector_names))


EXPLAIN: Final = Command(
    about="Show which backend would answer a prompt, and why: order, exclusions, and the values that each rule read.\n"
    "Nothing is sent. The exit code is 0 also if no backend is eligible.",
    options=_options,
    run=_explain,
    examples=(
        "hybrid-llm explain 'Patient 4711 has a fever.' --config hybrid.yaml --privacy phi",
        "hybrid-llm explain Hello --policy clinic.yaml --signal device.battery=0.1 --signal device.charging=false",
        "hybrid-llm explain Hello --policy fleet.yaml --backend phone=edge --backend eu=cloud --json",
    ),
    codes=(Exit.CONFIG, Exit.INTERRUPTED),
)


def _policy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("policy", metavar="POLICY", help=POLICY_HELP)
    parser.add_argument("--trace", type=Path, metavar="FILE", help="recorded decisions; see `policy diff --help`")
    parser.add_argument("--request", default="", metavar="ID", help="prefix of the request's id; default: the last one")
    _add_situation(parser, prompt=False)


def _explain_policy(args: argparse.Namespace) -> int:
    if (args.prompt is None) is (args.trace is None):
        raise InvalidRequest("give either a PROMPT or --trace FILE", field="prompt")
    return _explain(args) if args.trace is None else _explain_recorded(args)


def _explain_recorded(args: argparse.Namespace) -> int:
    matching = [one for one in read_recordings(args.trace) if one.metadata.request_id.startswith(args.request)]
    if not matching:
        raise InvalidRequest(f"--request: {args.trace} contains no request {args.request!r}", field="request")
    metadata, signals = matching[-1].metadata, matching[-1].signals
    locations = {name: state.location for name, state in signals.backends.items()}
    signals = apply_overrides(signals, parse_overrides(args.signal, locations))
    return _show(load_named_policy(args.policy, locations).decide(metadata, signals), as_json=args.json)


EXPLAIN_POLICY: Final = Command(
    about="Show what a policy decides for a prompt, and why: order, exclusions, and the values that each rule read.\n"
    "Nothing is sent. Signals are read live, except those set with --signal. With --trace a recorded request is\n"
    "explained with the signals at that time.",
    options=_policy_options,
    run=_explain_policy,
    examples=(
        "hybrid-llm policy explain clinic.yaml 'Patient 4711 has a fever.' --privacy phi",
        "hybrid-llm policy explain balanced Hello --signal device.battery=0.1 --signal device.charging=false",
        "hybrid-llm policy explain clinic.yaml --trace decisions.jsonl --request 3f9a --json",
    ),
    codes=(Exit.CONFIG, Exit.INTERRUPTED),
)
