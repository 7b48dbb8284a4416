"""`hybrid-llm serve`: run a cloud node (`hybrid_llm.backends.node`) until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import (
    DATABASE_FORMS,
    Command,
    add_log_format,
    add_verbose,
    at_least,
    checked,
    database,
    seconds,
)
from hybrid_llm.cli.models_signing import add_trust, trust_of
from hybrid_llm.cli.ready_file import ready_file
from hybrid_llm.cli.serve_model import add_model, model_folders, models_of
from hybrid_llm.cli.terminal import Exit, Progress, log_to_stderr, note
from hybrid_llm.core.checked import fits
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint, listed
from hybrid_llm.core.fields import Kind, Whole, keys_of

if TYPE_CHECKING:
    from hybrid_llm.backends.audit.spec import AuditSpec
    from hybrid_llm.backends.node.engine import EngineInfo
    from hybrid_llm.backends.node.engines import EngineFactory
    from hybrid_llm.backends.node.intake import IntakeLimits
    from hybrid_llm.backends.node.liveness import StallLimits
    from hybrid_llm.backends.node.server import NodeConfig
    from hybrid_llm.core.telemetry import TelemetrySpec
    from hybrid_llm.policies.rights import RightsFile

_REQUIRED: Final = ("grpc_health", "grpc_reflection")
_STALL_S: Final = {"vllm": 60.0}
"""vLLM compiles some of its code at first use, without a sign of progress; other engines have the default."""
_REQUIRED_BY_ENGINE: Final = dict.fromkeys(("auto", "packed", "one_by_one"), ("torch", "transformers"))


def _options(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
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
    _add_sealing(parser)
    _add_engine(parser)
    _add_vllm(parser)
    _add_ray(parser)
    add_trust(parser)
    _add_rights(parser)
    _add_telemetry(parser)
    _add_audit(parser)
    parser.add_argument("--metrics", metavar="HOST:PORT", help="serve metrics for Prometheus, as at 127.0.0.1:9465")
    add_log_format(parser)
    _add_limits(parser)


def _add_rights(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rights; without a file every client that is authenticated may do everything")
    group.add_argument(
        "--rights", type=Path, metavar="FILE", help="who may do what, and how much; loaded when it changes"
    )
    group.add_argument(
        "--quotas",
        type=database,
        metavar="FILE|URL",
        help=f"remembers what of the quotas is used: an SQLite file or, for several machines, {DATABASE_FORMS}",
    )


def _add_sealing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sealed mode: what ends TLS before the node reads neither prompts nor answers")
    group.add_argument("--sealed", type=Path, metavar="DIR", help="sealing keys, *.seal; see `certs seal-key`")
    group.add_argument("--only-sealed", action="store_true", help="refuse requests that are not sealed")


def _add_telemetry(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("OpenTelemetry; the variables of its SDK apply, such as OTEL_TRACES_SAMPLER")
    group.add_argument("--telemetry", choices=("otlp", "console"), help="report each call to a collector, or to stderr")
    group.add_argument("--otlp-endpoint", metavar="URL", help="the collector (OTEL_EXPORTER_OTLP_ENDPOINT)")
    group.add_argument("--otlp-insecure", action="store_true", help="allow plain HTTP to another machine")


def _add_audit(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("audit log; `hybrid-llm audit init` makes its key")
    group.add_argument("--audit", type=database, metavar="FILE|URL", help=f"an SQLite file, or {DATABASE_FORMS}")
    group.add_argument("--audit-key", type=Path, metavar="FILE", help="the log's private key")
    group.add_argument("--audit-name", metavar="NAME", help="the log's name, one for each node (that of --name)")
    group.add_argument("--audit-required", action="store_true", help="refuse a request that cannot be recorded")


def _add_memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--kv-tokens", type=at_least(0), default=0, metavar="N", help="tokens of the shared KV cache; 0 fits the memory"
    )
    group.add_argument(
        "--context-window", type=at_least(0), default=0, metavar="N", help="maximum of a request; 0 is the model's own"
    )
    group.add_argument(
        "--reuse-prefixes",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="cache prompt prefixes for requests of the same identity and tenant",
    )


def _add_engine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        type=checked(_engine),
        default="auto",
        help="auto, packed, one_by_one, vllm, ray, or an installed one",
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
    _add_memory(group)
    group.add_argument(
        "--stall-limit",
        type=seconds(1.0),
        metavar="S",
        help="restart an engine that hangs, seconds (15; of vllm 60)",
    )
    group.add_argument(
        "--load-limit", type=seconds(1.0), default=1800.0, metavar="S", help="maximum load of the model, seconds (1800)"
    )


def _add_ray(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the engine ray, whose replicas run on other machines; see docs/scaling.md")
    group.add_argument("--replicas", metavar="HOST:PORT", help="where Ray Serve answers gRPC, such as 10.0.0.5:9000")


def _add_vllm(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the engine vllm, which runs in an environment of its own")
    group.add_argument("--engine-python", type=Path, metavar="FILE", help="the Python of that environment")
    group.add_argument(
        "--engine-option",
        type=checked(_engine_option),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of its engine, such as tensor_parallel_size=2; repeatable",
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


def _engine_option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not NAME=VALUE, with the name of an option of the engine")
    return name, value


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
        raise ConfigError(f"a node needs {listed(missing)}: {install_hint('node')}")
    with logged_handshakes(), ready_file(args.ready_file) as announce:
        level = logging.DEBUG if args.verbose else logging.WARNING if args.quiet else logging.INFO
        log_to_stderr(level, as_json=args.log_format == "json")
        config = _config(args, Path(args.model))  # what is wrong with the options is found before a download
        models_of(args)
        with model_folders(args) as (folder, adapters):
            config = replace(config, engine=replace(config.engine, model=folder, adapters=adapters))
            asyncio.run(_serve(config, args.grace, announce, factory))
    note("stopped")
    return Exit.OK


def _config(args: argparse.Namespace, model: Path) -> NodeConfig:
    from hybrid_llm.backends.node.engine import EngineConfig
    from hybrid_llm.backends.node.server import NodeConfig
    from hybrid_llm.backends.wire.certificates import TLSFiles

    engine = EngineConfig(
        model=model,
        engine=args.engine,
        device=args.device,
        dtype=args.dtype,
        threads=args.threads,
        max_slots=args.slots,
        kv_tokens=args.kv_tokens,
        context_window=args.context_window,
        max_waiting=args.max_queue,
        reuse_prefixes=args.reuse_prefixes,
        python=args.engine_python,
        options=dict(args.engine_option),
        replicas=_replicas(args),
        trust=trust_of(args),
        limits=_stall_limits(args),
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
        rights=_rights(args),
        quotas=args.quotas,
        audit=_audit(args),
        sealed=args.sealed,
        only_sealed=args.only_sealed,
        metrics=args.metrics,
    )


def _stall_limits(args: argparse.Namespace) -> StallLimits:
    from hybrid_llm.backends.node.liveness import StallLimits

    return StallLimits(stall=args.stall_limit or _STALL_S.get(args.engine, StallLimits().stall), load=args.load_limit)


def _replicas(args: argparse.Namespace) -> str:
    if (args.engine == "ray") != (args.replicas is not None):
        raise ConfigError("--engine ray and --replicas HOST:PORT go together: see docs/scaling.md")
    return args.replicas or ""


def _rights(args: argparse.Namespace) -> RightsFile | None:
    if args.rights is None:
        if args.quotas is not None:
            raise ConfigError("--quotas needs --rights, which has the limits")
        return None
    from hybrid_llm.policies.rights import open_rights

    return open_rights(args.rights, "node")


def _telemetry(args: argparse.Namespace) -> TelemetrySpec | None:
    if args.telemetry is None:
        if args.otlp_endpoint is not None:
            raise ConfigError("--otlp-endpoint needs --telemetry otlp")
        return None
    from hybrid_llm.core.telemetry import TelemetrySpec

    return TelemetrySpec(exporter=args.telemetry, endpoint=args.otlp_endpoint, insecure=args.otlp_insecure)


def _audit(args: argparse.Namespace) -> AuditSpec | None:
    if (args.audit is None) != (args.audit_key is None):
        raise ConfigError("--audit and --audit-key go together: `hybrid-llm audit init audit.key` makes a key")
    if args.audit is None:
        if args.audit_required or args.audit_name:
            raise ConfigError("--audit-required and --audit-name need --audit")
        return None
    from hybrid_llm.backends.audit.spec import AuditSpec

    name = args.audit_name or args.name
    return AuditSpec(file=args.audit, key=args.audit_key, name=name, required=args.audit_required)


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
    memory = f"{info.context_window:,} tokens"
    if info.slots > 1:
        memory = f"{info.slots} slots, {info.kv_tokens:,} tokens of KV cache, {info.context_window:,} a request"
    adapters = f", adapters {listed(info.adapters)}" if info.adapters else ""
    return f"{info.model} ({info.engine}, {info.device}, {info.dtype}, {memory}{adapters})"


SERVE: Final = Command(
    about="Run a cloud node: one model, over mutual TLS 1.3. Needs the extra `node`.\n"
    "SIGTERM or Ctrl-C lets running answers finish, then exits with 0; a second one stops them.",
    options=_options,
    run=serve,
    examples=(
        "hybrid-llm serve --model examples/models/hybrid-demo-node --listen 127.0.0.1:7443 --tls certs",
        "hybrid-llm serve --model ./Qwen2.5-7B-Instruct --listen 0.0.0.0:7443 --tls /etc/hybrid --name eu-1",
        "hybrid-llm serve --model MODEL --listen 127.0.0.1:0 --tls certs --ready-file port.txt",
        "hybrid-llm serve --model MODEL --tls certs --engine vllm --engine-python /opt/vllm/bin/python",
        "hybrid-llm serve --model s3://models/smollm2 --tls certs --public-key release.key.pub",
        "hybrid-llm serve --model smollm2 --adapter support=support-lora --adapter sales=sales-lora --tls certs",
        "hybrid-llm serve --model smollm2@prod --registry s3://models/registry --tls certs --ca certs/ca.pem",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.SECURITY),
)
