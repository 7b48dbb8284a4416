"""`hybrid-llm gateway`: answer clients of OpenAI's and Anthropic's APIs, as the policy decides."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, add_config, add_log_format, add_verbose, database, read_config, seconds
from hybrid_llm.cli.ready_file import ready_file
from hybrid_llm.cli.terminal import Exit, log_to_stderr, note
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint, listed

if TYPE_CHECKING:
    from hybrid_llm.backends.registry import BackendSpec
    from hybrid_llm.gateway.managed import Managed
    from hybrid_llm.router.client import HybridLLM
    from hybrid_llm.router.config.gateway import GatewayConfig
    from hybrid_llm.router.observability.prometheus import PrometheusMetrics

_REQUIRED: Final = ("starlette", "uvicorn", "httptools")
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104
"""Who listens here listens at loopback addresses too."""


def _options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", help="127.0.0.1:8080; port 0 picks a free one")
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="keys of clients; needed to listen beyond this machine"
    )
    parser.add_argument("--new-key", metavar="TENANT", help="add a key for a tenant to --keys, print it, and exit")
    parser.add_argument(
        "--unknown-models", choices=("auto", "refuse"), help="route an unknown model name, or refuse it"
    )
    parser.add_argument(
        "--managed",
        choices=("sagemaker", "vertex", "azure"),
        help="serve the routes of this platform, which authenticates all callers, on 0.0.0.0 at its port",
    )
    parser.add_argument("--rights", type=Path, metavar="FILE", help="who may do what, and how much")
    parser.add_argument("--quotas", type=database, metavar="FILE|URL", help="remembers what of the quotas is used")
    parser.add_argument("--no-console", action="store_true", help="serve no page at /")
    parser.add_argument("--drain", type=seconds(), metavar="S", help="seconds for load balancers to leave (0)")
    parser.add_argument("--grace", type=seconds(), metavar="S", help="seconds for running answers (10)")
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="contains the port while the gateway is ready")
    add_verbose(parser, "log one line for each request to standard error")
    add_log_format(parser)


def _run(args: argparse.Namespace) -> int:
    if missing := missing_packages():
        raise ConfigError(f"the gateway needs {listed(missing)}: {install_hint('gateway')}")
    if args.new_key is not None:
        return _new_key(args)
    log_to_stderr(logging.INFO if args.verbose else logging.WARNING, as_json=args.log_format == "json")
    from hybrid_llm.gateway.config import open_keys

    managed = _managed(args.managed)
    config = _config(args, managed)
    if managed is None:
        open_keys(config)  # what is wrong with them is said before a model is loaded
    if not config.is_local and config.tls is None and managed is None:
        note("keys and prompts are in the clear here: set `gateway: {tls: ...}`, or put a proxy with TLS in front")
    from hybrid_llm.router.default import open_client

    metrics = _metrics() if managed is None else None
    client = open_client(args.config, hooks=() if metrics is None else (metrics,))
    with ready_file(args.ready_file) as announce:
        asyncio.run(_serve(client, config, metrics, managed, announce))
    note("stopped")
    return Exit.OK


def missing_packages() -> list[str]:
    """The packages of the extra `gateway` that are not installed."""
    return [name for name in _REQUIRED if find_spec(name) is None]


def _managed(platform: str | None) -> Managed | None:
    if platform is None:
        return None
    from hybrid_llm.gateway.managed import managed_by

    return managed_by(platform, os.environ)


def _config(args: argparse.Namespace, managed: Managed | None) -> GatewayConfig:
    """What the file says under `gateway:`; options of the command line, and a platform, come before it."""
    from hybrid_llm.router.config.gateway import GatewayConfig

    loaded = read_config(args.config)
    config = GatewayConfig() if loaded is None else loaded.gateway
    named = {
        "listen": args.listen,
        "keys": args.keys,
        "rights": args.rights,
        "quotas": args.quotas,
        "unknown_models": args.unknown_models,
        "drain_s": args.drain,
        "grace_s": args.grace,
        "console": False if args.no_console or managed is not None else None,
    }
    if managed is not None:
        named["listen"] = args.listen or f"0.0.0.0:{managed.port}"
    config = replace(config, **{name: value for name, value in named.items() if value is not None})
    if managed is not None and config.keys is not None:
        raise ConfigError(f"{managed.platform} authenticates its callers, and passes on no keys: leave out `keys`")
    if loaded is not None:
        refuse_itself(config, loaded.backends)
    return config


def refuse_itself(config: GatewayConfig, backends: Sequence[BackendSpec]) -> None:
    """Raise ConfigError for a backend that is this gateway: it would ask itself, until every deadline has passed."""
    from hybrid_llm.backends.http.settings import HttpSettings

    host, port = config.address
    for each in backends:
        if not isinstance(each, HttpSettings) or not each.is_local or each.endpoint != f"{each.host}:{port}":
            continue
        if host in (each.host, "localhost", *_EVERYWHERE):
            remedy = "choose another port with --listen, or correct `base_url`"
            raise ConfigError(f"{each.name}: {each.base_url} is this gateway itself; {remedy}")


def _metrics() -> PrometheusMetrics | None:
    """Counts requests, in a registry of its own, where the extra `metrics` is installed."""
    if find_spec("prometheus_client") is None:
        return None
    from hybrid_llm.router.observability.prometheus import PrometheusMetrics

    return PrometheusMetrics.alone()


async def _serve(
    client: HybridLLM,
    config: GatewayConfig,
    metrics: PrometheusMetrics | None,
    managed: Managed | None,
    announce: Callable[[int], None],
) -> None:
    from hybrid_llm.gateway.server import GatewayServer

    server = GatewayServer(client, config, metrics=metrics, managed=managed)

    def ready() -> None:
        host = config.listen.rpartition(":")[0]
        url = f"{'http' if config.tls is None else 'https'}://{host}:{server.port}"
        print(f"ready on {url}{'/v1' if managed is None else managed.predict}", flush=True)
        if config.console:
            note(f"console for a browser: {url}/")
        announce(server.port)

    await server.serve(ready)


def _new_key(args: argparse.Namespace) -> int:
    """Add the digest of a new key to the file; the key itself is printed, and stored nowhere."""
    if args.keys is None:
        raise ConfigError("--new-key needs --keys FILE, to which the key is added")
    path: Path = args.keys
    from hybrid_llm.gateway.config import Keys

    if path.exists():
        Keys.read(path)
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    secret = f"hl-{secrets.token_urlsafe(32)}"
    entries.append({"sha256": hashlib.sha256(secret.encode()).hexdigest(), "tenant": args.new_key})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(entries, file, indent=2)
        file.write("\n")
    try:
        Keys.read(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(secret)
    note(f"{path} has its SHA-256; this is the only time that the key itself is shown")
    return Exit.OK


GATEWAY: Final = Command(
    about="Answer clients of OpenAI's and Anthropic's APIs, as the policy decides. Needs the extra `gateway`.\n"
    "SIGTERM or Ctrl-C lets running answers finish, then exits with 0; a second one stops them.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm gateway",
        "hybrid-llm gateway --config hybrid.yaml --listen 127.0.0.1:8080",
        "hybrid-llm gateway --keys keys.json --new-key acme",
        "hybrid-llm gateway --managed sagemaker",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
)
