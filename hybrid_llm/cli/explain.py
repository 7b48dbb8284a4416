"""`hybrid-llm explain` and `policy explain`: show which backend would answer a prompt, and why.

Nothing is sent and no model runs. Signals are read live, or set with `--signal device.battery=0.1`.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from hybrid_llm.cli import arguments
from hybrid_llm.cli.terminal import Exit, note, output
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import BackendUnavailable, InvalidRequest
from hybrid_llm.core.protocols import Backend, Capabilities
from hybrid_llm.core.request import Location, Request, RequestMetadata, estimate_tokens
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.lab.casefile import amended, signals_of
from hybrid_llm.lab.recordings import read_recordings
from hybrid_llm.policies import FixedPolicy, Objectives, PolicySource
from hybrid_llm.policies.language.schema import FieldSpec, Schema
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.config import default_config
from hybrid_llm.router.fleet import Fleet
from hybrid_llm.router.pipeline import Pipeline
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.spending.charge import Spending

_BOOLEANS: Final = {"true": True, "yes": True, "false": False, "no": False}
_ABSENT: Final = frozenset({"none", "null", ""})
_CONTEXT_WINDOW: Final = {Location.EDGE: 2048, Location.CLOUD: 32768}
_READERS: Final[Mapping[str, tuple[Callable[[str], object], str]]] = {
    "bool": (lambda text: _BOOLEANS[text.lower()], "true or false"),
    "int": (int, "a whole number"),
    "double": (float, "a number"),
}


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

    def stream(self, cleared: Cleared) -> NoReturn:
        """Always raises `BackendUnavailable`."""
        require_clearance(cleared, self.location)
        message = f"{self.name} is assumed, not configured: give --config"
        raise BackendUnavailable(message, backend=self.name, reason="not_ready")

    astream = stream

    def close(self) -> None:
        """Nothing is open."""

    async def aclose(self) -> None:
        """Nothing is open."""


Override = tuple[FieldSpec, object]
"""A signal and the value that `--signal` sets."""


class _WhatIfFleet(Fleet):
    """The fleet of a client, with some signals overridden."""

    overrides: tuple[Override, ...] = ()

    def snapshot(self, metadata: RequestMetadata, objectives: Objectives) -> Signals:
        """The live signals with the overrides applied."""
        return apply_overrides(super().snapshot(metadata, objectives), self.overrides)


def apply_overrides(signals: Signals, overrides: Iterable[Override]) -> Signals:
    """*signals* with the values of *overrides*."""
    for signal, value in overrides:
        signals = amended(signals, signal, value)
    return signals


def parse_overrides(texts: Iterable[str], backends: Mapping[str, Location]) -> tuple[Override, ...]:
    """Read `OWNER.FIELD=VALUE`; a location stands for its first backend, as in policies.

    Raises:
        InvalidRequest: an unknown name, with the nearest known one, or a value of the wrong type.
    """
    known = signals_of(Schema(backends, Objectives()), backends)
    return tuple(_parse_override(text, known) for text in texts)


def _parse_override(text: str, known: Mapping[str, FieldSpec]) -> Override:
    name, equals, value = (part.strip() for part in text.partition("="))
    owner, dot, field = name.rpartition(".")
    if not equals or not dot:
        raise _invalid(f"{text!r} is not NAME.FIELD=VALUE, such as device.battery=0.1")
    if name not in known:
        fields = [one.removeprefix(f"{owner}.") for one in known if one.startswith(f"{owner}.")]
        if fields:
            raise _invalid(f"`{owner}` has no signal `{field}`: {did_you_mean(field, fields)}")
        owners = dict.fromkeys(one.rpartition(".")[0] for one in known)
        raise _invalid(f"`{owner}` is unknown: {did_you_mean(owner, owners)}")
    return known[name], _parse_value(value, known[name], name)


def _parse_value(text: str, spec: FieldSpec, name: str) -> object:
    if spec.optional and text.lower() in _ABSENT:
        return None
    choices = {value: value for value in spec.values}
    one_of = choices.__getitem__, f"one of {', '.join(sorted(choices))}"
    read, expected = _READERS.get(spec.type.kind, one_of)
    try:
        return read(text)
    except (ValueError, KeyError):
        raise _invalid(f"{name}: {text!r} is not {expected}") from None


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"--signal: {message}", field="signal")


def _add_situation(parser: argparse.ArgumentParser, *, prompt: bool = True) -> None:
    """Add the prompt (required if *prompt*), the request's options, the backends and the signals."""
    arguments.add_prompt(parser, required=prompt)
    group = parser.add_mutually_exclusive_group()
    arguments.add_config(group)
    arguments.add_backend(group)
    parser.add_argument(
        "--signal",
        action="append",
        default=[],
        metavar="OWNER.FIELD=VALUE",
        help="override a live signal, such as device.battery=0.1, cloud.ready=false, edge.queue=3; repeatable",
    )
    arguments.add_request_options(parser)
    arguments.add_json(parser)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", metavar="POLICY", help=arguments.POLICY_HELP)
    _add_situation(parser)


def _explain(args: argparse.Namespace) -> int:
    prompt, options = arguments.read_prompt(args.prompt), arguments.request_options(args)
    with _open_pipeline(args) as pipeline:
        decision = pipeline.route(prompt, options).decision
    return _show(decision, as_json=args.json)


def _show(decision: Decision, *, as_json: bool) -> int:
    output(decision.to_dict(), [decision.explain()], as_json=as_json)
    return Exit.OK


@contextlib.contextmanager
def _open_pipeline(args: argparse.Namespace) -> Iterator[Pipeline]:
    """The pipeline that the options describe, closed at the end."""
    # --policy and --backend without --config describe a situation of their own: the environment does not apply.
    assumed = args.config is None and bool(args.policy or args.backend)
    config = default_config() if assumed else arguments.read_config_or_default(args.config)
    locations = arguments.parse_backends(args.backend) if assumed else config.locations
    policies: PolicySource
    if args.policy is None and not args.backend:
        policies = config.open_policy()
    else:
        policies = FixedPolicy(arguments.load_named_policy(args.policy or "balanced", locations, config.detector_names))
    backends: Sequence[Backend]
    if assumed:
        note(f"assumed backends: {', '.join(locations)}; change them with --backend and --signal, or give --config")
        backends = [AssumedBackend(name, location) for name, location in locations.items()]
    else:
        backends = config.open_backends()
    fleet = _WhatIfFleet(
        backends,
        policies.current,
        sensors=SystemSensors(),
        spending=Spending(config.prices, config.open_ledger()),
        predictions=None if assumed else config.open_predictions(),
    )
    pipeline = Pipeline(fleet, policies, PrivacyGuard(config.open_detectors()), defaults=config.defaults)
    try:
        fleet.overrides = parse_overrides(args.signal, locations)
        yield pipeline
    finally:
        pipeline.close()
        for backend in backends:
            backend.close()


EXPLAIN: Final = arguments.Command(
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
    parser.add_argument("policy", metavar="POLICY", help=arguments.POLICY_HELP)
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
    return _show(arguments.load_named_policy(args.policy, locations).decide(metadata, signals), as_json=args.json)


EXPLAIN_POLICY: Final = arguments.Command(
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
