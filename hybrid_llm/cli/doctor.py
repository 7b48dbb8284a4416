"""`hybrid-llm doctor`: check the whole installation and report a remedy for each fault."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, add_config, add_json
from hybrid_llm.cli.doctor_cache import check_cache
from hybrid_llm.cli.doctor_checks import CHECKS, FIRST_CHECKS, Check, Setup, run_checks
from hybrid_llm.cli.doctor_gateway import check_gateway
from hybrid_llm.cli.doctor_quality import check_quality
from hybrid_llm.cli.findings import Finding, Status, fault, ok, warning
from hybrid_llm.cli.terminal import Exit, print_json, printable, record
from hybrid_llm.core.environment import read_environment, unknown_variables
from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from hybrid_llm.backends.wire.certificates import TLSFiles

_MARKS: Final = {Status.OK: "ok     ", Status.WARNING: "warning", Status.FAULT: "FAULT  "}


def _options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--tls", type=Path, metavar="DIR", help="check every certificate in this folder")
    parser.add_argument("--target", metavar="HOST:PORT", help="connect to this node with a client certificate of --tls")
    parser.add_argument("--name", help="the client certificate for --target; default: the only one in --tls")
    parser.add_argument("--server-name", metavar="HOST", help="name in the node's certificate, if it is not HOST")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    findings = []
    # The first checks need nothing installed. The set-up is read after them, so that they always report.
    setup_checks: dict[str, Check] = {"configuration": partial(_read_setup, args), "environment": _check_environment}
    last_checks: dict[str, Check] = {"cache": check_cache, "quality": check_quality, "gateway": check_gateway}
    checks: dict[str, Check] = {**FIRST_CHECKS, **setup_checks, **CHECKS, **last_checks}
    for finding in run_checks(checks, Setup()):
        findings.append(finding)
        if not args.json:
            # One by one and flushed: some checks take seconds.
            remedy = f"\n         -> {printable(finding.remedy)}" if finding.remedy else ""
            print(f"{_MARKS[finding.status]}  {finding.check}: {printable(finding.message)}{remedy}", flush=True)
    faults = sum(finding.status is Status.FAULT for finding in findings)
    if args.json:
        print_json([record(finding) for finding in findings])
    else:
        print(f"{faults} fault{'s' if faults > 1 else ''}" if faults else "no faults")
    return Exit.FAILURE if faults else Exit.OK


def _read_setup(args: argparse.Namespace, setup: Setup) -> Iterator[Finding]:
    """Fill in *setup*; an invalid configuration is a finding, and the other checks run without it."""
    from hybrid_llm.backends.grpc import GrpcSpec
    from hybrid_llm.backends.wire.certificates import TLSFiles
    from hybrid_llm.router.config import environment_config, load_config

    try:
        setup.config = environment_config() if args.config is None else load_config(args.config)
    except ConfigError as error:
        yield fault("configuration", str(error), "correct it; the other checks run without it")
    if (config := setup.config) is not None:
        setup.clouds = [spec for spec in config.backends if isinstance(spec, GrpcSpec)]
        yield ok("configuration", f"{config.name}: {', '.join(spec.name for spec in config.backends)}")
    if args.tls is not None:
        setup.folder = args.tls
        names = sorted(path.stem for path in args.tls.glob("*.pem") if path.stem != "ca")
        setup.pairs = {name: TLSFiles.from_dir(args.tls, name) for name in names}
    if args.target is not None:
        tls = _client_certificate(args.name, setup.pairs)
        setup.clouds.append(GrpcSpec(name="target", targets=(args.target,), tls=tls, server_name=args.server_name))


def _check_environment(setup: Setup) -> Iterator[Finding]:
    """Whether every environment variable with our prefix is one that is read, and has a value that it may have."""
    unknown = list(unknown_variables(() if setup.config is None else setup.config.variables))
    for message in unknown:
        yield warning("environment", message, "correct its name, or unset it")
    read_environment()
    if not unknown:
        yield ok("environment", "every variable HYBRID_LLM_... that is set is known")


def _client_certificate(name: str | None, pairs: Mapping[str, TLSFiles]) -> TLSFiles:
    """The pair called *name*, else the only one with a client certificate."""
    names = [name] if name else [name for name, files in pairs.items() if _is_client(files)]
    if len(names) != 1 or names[0] not in pairs:
        known = ", ".join(pairs) or "none"
        raise ConfigError(f"--target needs --tls with a client certificate, and --name to choose one; found: {known}")
    return pairs[names[0]]


def _is_client(files: TLSFiles) -> bool:
    from hybrid_llm.backends.wire.certificates import inspect

    with suppress(ConfigError):
        return "client" in inspect(files.cert).kinds
    return False


DOCTOR: Final = Command(
    about="Check the installation: Python, packages, runtime, models, policy, sensors, certificates and nodes.\n"
    "Each finding is ok, a warning or a fault, with a remedy; the exit code is 1 if there is a fault.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm doctor",
        "hybrid-llm doctor --config hybrid.yaml --json",
        "hybrid-llm doctor --tls certs --name app --target node.example:7443",
    ),
    codes=(Exit.FAILURE,),
)
