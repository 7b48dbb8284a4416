"""`hybrid-llm calibrate`: measure the speed of backends and save it, so that the first predictions are measurements."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Final

from hybrid_llm.backends.registry import BackendSpec
from hybrid_llm.cli.arguments import Command, add_config, add_json, read_config_or_default
from hybrid_llm.cli.terminal import Exit, note, output
from hybrid_llm.core.errors import InvalidRequest
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies.reader.source import did_you_mean
from hybrid_llm.router.config import Config
from hybrid_llm.router.signals.calibrate import calibrate, clear_under
from hybrid_llm.router.signals.predictor import PRIORS, LatencyPredictor, Learned
from hybrid_llm.router.signals.store import PredictionStore

_PROMPT_TOKENS: Final = (32, 128, 512)


def _options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--backend", action="append", default=[], metavar="NAME", help="this backend; default: all on the device"
    )
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    config = read_config_or_default(args.config)
    specs, store = _chosen(config, args.backend), config.open_predictions()
    results: list[dict[str, object]] = []
    with closing(config.open_policy()) as policies:
        clear = clear_under(policies.current, config.open_detectors())
        for spec in specs:
            with closing(spec.open()) as backend:
                learned = calibrate(backend, clear)
            results.append(_result(spec, learned, store))
    output(results, map(_line, results), as_json=args.json)
    return Exit.OK if all(result["saved"] for result in results) else Exit.FAILURE


def _chosen(config: Config, names: list[str]) -> list[BackendSpec]:
    known = {spec.name: spec for spec in config.backends}
    for name in names:
        if name not in known:
            raise InvalidRequest(f"--backend: no backend {name!r}: {did_you_mean(name, known)}", field="backend")
    chosen = [known[name] for name in names] or [s for s in config.backends if s.location is Location.EDGE]
    if not chosen:
        note("no backend is on this device; --backend NAME measures a node over the network")
    return chosen


def _result(spec: BackendSpec, learned: Learned, store: PredictionStore) -> dict[str, object]:
    predictor = LatencyPredictor(PRIORS[spec.location])
    predictor.resume(learned)
    idle = BackendState(name=spec.name, location=spec.location)
    path = store.save(spec.name, learned)
    return {
        "backend": spec.name,
        "ttft_ms": {str(tokens): round(predictor.ttft_ms(tokens, idle), 3) for tokens in _PROMPT_TOKENS},
        "tpot_ms": round(predictor.tpot_ms(128), 3),
        "saved": str(path) if path is not None else None,
    }


def _line(result: dict[str, object]) -> str:
    ttft_ms = result["ttft_ms"]
    assert isinstance(ttft_ms, dict)
    ttft = ", ".join(f"{ms:.1f} ms for {tokens}" for tokens, ms in ttft_ms.items())
    saved = f"saved to {result['saved']}" if result["saved"] else "not saved: the folder is not writable"
    tpot = f"{result['tpot_ms']:.2f} ms per further token"
    return f"{result['backend']}: first token after {ttft} prompt tokens; {tpot}\n  {saved}"


CALIBRATE: Final = Command(
    about="Measure the speed of the device's models with ten short answers to a fixed text, and save the result for\n"
    "this model on this device. A node is only called if --backend names it, which may cost money.",
    options=_options,
    run=_run,
    examples=("hybrid-llm calibrate", "hybrid-llm calibrate --config hybrid.yaml --backend edge --backend cloud"),
    codes=(Exit.CONFIG, Exit.BACKEND, Exit.SECURITY, Exit.FAILURE),
)
