"""`hybrid-llm serve`: run a cloud node (`hybrid_llm.backends.node`) until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, add_verbose, at_least, checked, seconds
from hybrid_llm.cli.models_signing import add_trust, trust_of
from hybrid_llm.cli.ready_file import ready_file
from hybrid_llm.cli.terminal import Exit, Progress, log_to_stderr, note
from hybrid_llm.core.checked import fits
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.fields import Kind, Whole, keys_of

if TYPE_CHECKING:
    from hybrid_llm.backends.node.engine import EngineInfo
    from hybrid_llm.backends.node.engines import EngineFactory
    from hybrid_llm.backends.node.intake import IntakeLimits
    from hybrid_llm.backends.node.server import NodeConfig
    from hybrid_llm.core.telemetry import TelemetrySpec

_REQUIRED: Final = ("grpc_health", "grpc_reflection")
_REQUIRED_BY_ENGINE: Final = dict.fromkeys(("auto", "packed", "one_by_one"), ("torch", "transformers"))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="config.json, *.safetensors, tokenizer"
    )
    parser.add_argument("--listen", default="127.0.0.1:7443", metavar="HOST:PORT", help="port 0 picks a free one")
    parser.add_argument("--tls", type=Path, required=True, metavar="DIR", help="ca.pem, NAME.pem, NAME.key")
    parser.add_argument("--name", default="node", help="name of the certificate in --tls (node)")
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="contains the port while the node is ready")
    parser.add_argument("--max-queue", type=at_least(0), default=64, metavar="N", help="maximum queued requests (64)")
    parser.add_argument(
        "--max-deadline", type=seconds(0.001), default=600.0, metavar="S", help="maximum call, seconds (600)"
    )
    parser.add_argument("--grace", type=seconds(), default=10.0, metavar="S", help="seconds for running answers (10)")
    add_verbose(parser, "log more than one line for each call to standard error")
    parser.add_argument("--quiet", "-q", action="store_true", help="log warnings only, not each call")
    _add_engine(parser)
    add_trust(parser)
    _add_telemetry(parser)
    _add_limits(parser)


def _add_telemetry(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("OpenTelemetry; the variables of its SDK apply, such as OTEL_TRACES_SAMPLER")
    group.add_argument("--telemetry", choices=("otlp", "console"), help="report each call to a collector, or to stderr")
    group.add_argument("--otlp-endpoint", metavar="URL", help="the collector (OTEL_EXPORTER_OTLP_ENDPOINT)")
    group.add_argument("--otlp-insecure", action="store_true", help="allow plain HTTP to another machine")


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine", type=checked(_engine), default="auto", help="auto, packed, one_by_one, or an installed one"
    )
    group.add_argument(
        "--chat-template",
        type=checked(_template),
        metavar="NAME|FILE",
        help="chatml, gemma, or a file, in place of the model's own",
    )
    group.add_argument("--device", default="auto", help="cpu, cuda or auto")
    group.add_argument("--dtype", choices=("auto", "bf16", "fp32"), default="auto", help="of weights and cache")
    group.add_argument("--slots", type=at_least(1), default=16, metavar="N", help="concurrent requests (16)")
    group.add_argument(
        "--threads", type=at_least(0), default=0, metavar="N", help="CPU threads; 0 leaves one to the server"
    )
    group.add_argument(
        "--kv-tokens", type=at_least(0), default=0, metavar="N", help="tokens of the KV cache; 0 fits the memory"
    )
    group.add_argument(
        "--stall-limit", type=seconds(1.0), default=15.0, metavar="S", help="restart an engine that hangs, seconds (15)"
    )
    group.add_argument(
        "--load-limit", type=seconds(1.0), default=1800.0, metavar="S", help="maximum load of the model, seconds (1800)"
    )
    group.add_argument(
        "--reuse-prefixes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cache prompt prefixes for requests of the same identity and tenant",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    from hybrid_llm.backends.node.intake import IntakeLimits

    group = parser.add_argument_group("what clients may hold; a client is an identity")
    group.add_argument(
        "--weight",
        type=checked(_weight),
        action="append",
        default=[],
        metavar="NAME=N",
        help="share of the engine's tokens for the client whose certificate has this name; repeatable (1)",
    )
    for key in keys_of(IntakeLimits):
        number = checked(partial(_number, key.kind))
        about = f"{key.about[0].lower()}{key.about[1:].rstrip('.')} ({key.default})"
        group.add_argument(f"--{key.name.replace('_', '-')}", type=number, default=key.default, metavar="N", help=about)


def _number(kind: Kind, text: str) -> int | float:
    value = int(text) if isinstance(kind, Whole) else float(text)
    if not fits(kind, value):
        raise ValueError(f"{text} is not {kind.words}")
    return value


def _weight(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    if not name or not re.fullmatch(r"\d+(\.\d+)?", number) or not float(number):
        raise ValueError(f"{text!r} is not NAME=N, the name of a client and a number above 0")
    return name, float(number)


def _limits(args: argparse.Namespace) -> IntakeLimits:
    from hybrid_llm.backends.node.intake import IntakeLimits

    return IntakeLimits(**{key.name: getattr(args, key.name) for key in keys_of(IntakeLimits)})


def _engine(name: str) -> str:
    from hybrid_llm.backends.node.engines import ENGINES

    if name not in (names := ENGINES.names()):
        raise ValueError(f"invalid choice: {name!r} (choose from {', '.join(names)})")
    return name


def _template(named: str) -> str:
    from hybrid_llm.backends.models.gguf.chat import TEMPLATES

    if named in TEMPLATES:
        return TEMPLATES[named]
    try:
        return Path(named).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        names = ", ".join(TEMPLATES)
        raise ValueError(f"{named!r} is none of {names}, nor a text file ({type(error).__name__})") from None


def serve(args: argparse.Namespace, factory: EngineFactory | None = None) -> int:
    """Serve until SIGTERM or SIGINT; *factory* replaces the one of `--engine`."""
    from hybrid_llm.backends.node.handshakes import logged_handshakes

    required = (*_REQUIRED_BY_ENGINE.get(args.engine, ()), *_REQUIRED)
    missing = [name for name in required if find_spec(name) is None]
    if missing:
        raise ConfigError(f"a node needs {', '.join(missing)}: {install_hint('node')}")
    with logged_handshakes(), ready_file(args.ready_file) as announce:
        log_to_stderr(logging.DEBUG if args.verbose else logging.WARNING if args.quiet else logging.INFO)
        asyncio.run(_serve(_config(args), args.grace, announce, factory))
    note("stopped")
    return Exit.OK


def _config(args: argparse.Namespace) -> NodeConfig:
    from hybrid_llm.backends.node.engine import EngineConfig
    from hybrid_llm.backends.node.liveness import StallLimits
    from hybrid_llm.backends.node.server import NodeConfig
    from hybrid_llm.backends.wire.certificates import TLSFiles

    engine = EngineConfig(
        model=args.model,
        engine=args.engine,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        max_slots=args.slots,
        kv_tokens=args.kv_tokens,
        max_waiting=args.max_queue,
        reuse_prefixes=args.reuse_prefixes,
        trust=trust_of(args),
        limits=StallLimits(stall=args.stall_limit, load=args.load_limit),
    )
    return NodeConfig(
        engine=engine,
        tls=TLSFiles.from_dir(args.tls, args.name),
        chat_template=args.chat_template,
        listen=args.listen,
        max_queue=args.max_queue,
        max_deadline=args.max_deadline,
        intake=_limits(args),
        weights=dict(args.weight),
        telemetry=_telemetry(args),
    )


def _telemetry(args: argparse.Namespace) -> TelemetrySpec | None:
    if args.telemetry is None:
        if args.otlp_endpoint is not None:
            raise ConfigError("--otlp-endpoint needs --telemetry otlp")
        return None
    from hybrid_llm.core.telemetry import TelemetrySpec

    return TelemetrySpec(exporter=args.telemetry, endpoint=args.otlp_endpoint, insecure=args.otlp_insecure)


async def _serve(
    config: NodeConfig, grace: float, announce: Callable[[int], None], factory: EngineFactory | None
) -> None:
    from hybrid_llm.backends.node.engines import ENGINES
    from hybrid_llm.backends.node.server import NodeServer

    with Progress(f"loading {config.engine.model.name}") as progress:
        progress.phase("starting the engine", live_only=True)
        factory = factory or ENGINES.get(config.engine.engine)
        engine = factory(config.engine, on_progress=progress.phase)

        def ready(port: int) -> None:
            progress.clear()
            host = config.listen.rpartition(":")[0]
            info = engine.info
            print(f"ready on {host}:{port}: {_about(info) if info is not None else ''}", flush=True)
            announce(port)

        await NodeServer(config, engine).serve_forever(grace=grace, on_ready=ready)


def _about(info: EngineInfo) -> str:
    slots = (
        f"{info.slots} slots of {info.context_window:,} tokens" if info.slots > 1 else f"{info.context_window:,} tokens"
    )
    return f"{info.model} ({info.engine}, {info.device}, {info.dtype}, {slots})"


SERVE: Final = Command(
    about="Run a cloud node: one model, over mutual TLS 1.3. Needs the extra `node`.\n"
    "SIGTERM or Ctrl-C lets running answers finish, then exits with 0; a second one stops them.",
    options=_options,
    run=serve,
    examples=(
        "hybrid-llm serve --model examples/models/hybrid-demo-node --listen 127.0.0.1:7443 --tls certs",
        "hybrid-llm serve --model ./Qwen2.5-7B-Instruct --listen 0.0.0.0:7443 --tls /etc/hybrid --name eu-1",
        "hybrid-llm serve --model MODEL --listen 127.0.0.1:0 --tls certs --ready-file port.txt",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.SECURITY),
)
