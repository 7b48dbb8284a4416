"""`hybrid-llm health`: ask a node or a gateway whether it serves, for probes of containers and load balancers."""

from __future__ import annotations

import argparse
import http.client
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from hybrid_llm.cli.arguments import Command, seconds
from hybrid_llm.cli.terminal import Exit, note, printable
from hybrid_llm.core.errors import BackendUnavailable, ConfigError, InvalidRequest, UntrustedPeer

_SCHEMES: Final = ("http", "https")
_PATH: Final = "/health"
_NOT_READY: Final = "not_ready"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="HOST:PORT of a node, or http(s)://HOST:PORT of a gateway")
    parser.add_argument("--tls", type=Path, metavar="DIR", help="ca.pem, and for a node NAME.pem and NAME.key")
    parser.add_argument("--name", default="app", help="name of the client certificate in --tls (app)")
    parser.add_argument("--server-name", metavar="HOST", help="name in the node's certificate, if it is not HOST")
    parser.add_argument("--timeout", type=seconds(0.1, 600.0), default=5.0, metavar="S", help="seconds (5)")
    parser.add_argument("--live", action="store_true", help="any answer is healthy, also `does not serve`")
    parser.add_argument("--quiet", "-q", action="store_true", help="print nothing if it is healthy")


def _run(args: argparse.Namespace) -> int:
    ask: Callable[[argparse.Namespace], None] = _ask_gateway if "://" in args.target else _ask_node
    try:
        ask(args)
    except BackendUnavailable as error:
        if error.reason != _NOT_READY:
            raise
        if not args.live:
            note(f"hybrid-llm: {printable(str(error))}")
            return Exit.FAILURE
    if not args.quiet:
        print(printable(f"{args.target} {'is live' if args.live else 'serves'}"))
    return Exit.OK


def _ask_node(args: argparse.Namespace) -> None:
    from hybrid_llm.backends.grpc import GrpcConfig
    from hybrid_llm.backends.grpc.health_check import check_node
    from hybrid_llm.backends.wire.certificates import TLSFiles

    if args.tls is None:
        raise ConfigError("a node answers clients alone: name the folder of a client certificate by --tls DIR")
    files = TLSFiles.from_dir(args.tls, args.name)
    check_node(
        GrpcConfig(target=args.target, tls=files, name=args.target, server_name=args.server_name), timeout=args.timeout
    )


def _ask_gateway(args: argparse.Namespace) -> None:
    status = _status(_url(args.target), args.timeout, args.tls)
    if status != http.client.OK:
        message = f"{args.target} does not serve: it answers {status}"
        raise BackendUnavailable(message, backend=args.target, reason=_NOT_READY)


def _url(target: str) -> SplitResult:
    try:
        url = urlsplit(target)
        valid = url.scheme in _SCHEMES and bool(url.hostname) and url.port != 0 and url.username is None
    except ValueError:
        valid = False
    if not valid:
        raise InvalidRequest(f"{target!r} is neither HOST:PORT nor http://HOST:PORT", field="target")
    return url


def _status(url: SplitResult, timeout_s: float, tls: Path | None) -> int:
    """The status of GET, by default of /health; no redirect is followed, and no proxy of the environment is used."""
    connection = _connection(url, timeout_s, tls)
    try:
        connection.request("GET", url.path if url.path.strip("/") else _PATH)
        return connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        raise UntrustedPeer(
            f"{url.netloc}: {error.verify_message}; name its authority by --tls DIR", backend=url.netloc
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise BackendUnavailable(f"{url.netloc} does not answer: {why}", backend=url.netloc) from None
    finally:
        connection.close()


def _connection(url: SplitResult, timeout_s: float, tls: Path | None) -> http.client.HTTPConnection:
    host = str(url.hostname)
    if url.scheme == "http":
        return http.client.HTTPConnection(host, url.port, timeout=timeout_s)
    authority = None if tls is None else tls / "ca.pem"
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{authority} holds no authority in PEM form", path=str(authority)) from None
    return http.client.HTTPSConnection(host, url.port, timeout=timeout_s, context=context)


HEALTH: Final = Command(
    about="Ask a node (gRPC health over mutual TLS) or a gateway (GET /health) whether it serves. No prompt is sent.\n"
    "For probes of containers: --live takes any answer, so that a node which restarts its engine is left alone.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm health node.example:7443 --tls certs --name app",
        "hybrid-llm health http://127.0.0.1:8080",
        "hybrid-llm health https://gateway.example:8443 --tls certs --live",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.BACKEND, Exit.SECURITY),
    meanings={Exit.FAILURE: "it answers, and does not serve", Exit.BACKEND: "there is no answer"},
)
