"""`hybrid-llm calibrate`: measure how fast backends are, and keep it, so that the first predictions are no guesses."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_config, add_json, describe
from hybrid_llm.cli.terminal import Exit, note, print_json
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.policies.reader.source import did_you_mean

if TYPE_CHECKING:
    from hybrid_llm.backends.registry import BackendSpec
    from hybrid_llm.policies import Policy
    from hybrid_llm.router.config import Config
    from hybrid_llm.router.signals.predictor import Learned
    from hybrid_llm.router.signals.store import PredictionStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Measure how fast the device's models are with ten short answers to a fixed text, and keep the result for\n"
        "this model on this device. A node is asked only where it is named; that may cost what its answers cost.",
        examples=["hybrid-llm calibrate", "hybrid-llm calibrate --config hybrid.yaml --backend edge --backend cloud"],
        codes=(Exit.CONFIG, Exit.BACKEND, Exit.SECURITY, Exit.FAILURE),
    )
    add_config(parser)
    parser.add_argument(
        "--backend", action="append", default=[], metavar="NAME", help="this backend; default: all on the device"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, keep, and tell."""
    from hybrid_llm.router.signals.calibrate import calibrate, clear_under

    config = _config(args.config)
    specs, store = _chosen(config, args.backend), config.open_predictions()
    shown: list[dict[str, object]] = []
    with _policy(config) as policy:
        for spec in specs:
            backend = spec.open()
            try:
                learned = calibrate(backend, clear_under(policy))
            finally:
                backend.close()
            shown.append(_told(spec, learned, store))
    if args.json:
        print_json(shown)
    else:
        print("\n".join(_line(told) for told in shown))
    return Exit.OK if all(told["kept"] for told in shown) else Exit.FAILURE


def _config(path: Path | None) -> Config:
    from hybrid_llm.router.config import load_config, parse_config
    from hybrid_llm.router.default import CONFIG_VARIABLE

    named = path or os.environ.get(CONFIG_VARIABLE)
    if named:
        return load_config(Path(named))
    return parse_config("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n", Path("hybrid.yaml"))


def _chosen(config: Config, names: list[str]) -> list[BackendSpec]:
    known = {spec.name: spec for spec in config.backends}
    for name in names:
        if name not in known:
            raise InvalidRequest(f"--backend: there is no {name!r}: {did_you_mean(name, known)}", field="backend")
    chosen = [known[name] for name in names] or [s for s in config.backends if s.location is Location.EDGE]
    if not chosen:
        note("no backend is on this device; name a node with --backend NAME to measure it over the network")
    return chosen


@contextmanager
def _policy(config: Config) -> Iterator[Policy]:
    source = config.open_policy()
    try:
        yield source.current
    finally:
        source.close()


def _told(spec: BackendSpec, learned: Learned, store: PredictionStore) -> dict[str, object]:
    from hybrid_llm.core.signals import BackendState
    from hybrid_llm.router.signals.predictor import PRIORS, LatencyPredictor

    predictor = LatencyPredictor(PRIORS[spec.location])
    predictor.resume(learned)
    idle = BackendState(name=spec.name, location=spec.location)
    path = store.save(spec.name, learned)
    return {
        "backend": spec.name,
        "ttft_ms": {str(n): round(predictor.ttft_ms(n, idle), 3) for n in (32, 128, 512)},
        "tpot_ms": round(predictor.tpot_ms(128), 3),
        "kept": str(path) if path is not None else None,
    }


def _line(told: dict[str, object]) -> str:
    times = told["ttft_ms"]
    assert isinstance(times, dict)
    firsts = ", ".join(f"{ms:.1f} ms at {tokens}" for tokens, ms in times.items())
    kept = told["kept"] or "not kept: the folder cannot be written"
    return f"{told['backend']}: first token {firsts} tokens; further ones {told['tpot_ms']:.2f} ms\n  {kept}"
