"""`hybrid-llm doctor`: check the whole installation and report a remedy for each fault."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, add_config, add_json, config_path
from hybrid_llm.cli.doctor_checks import CHECKS, FIRST_CHECKS, Finding, Setup, Status, fault, ok, run_checks
from hybrid_llm.cli.terminal import Exit, print_json, printable, record
from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from hybrid_llm.backends.grpc import GrpcSpec
    from hybrid_llm.backends.wire.certificates import TLSFiles
    from hybrid_llm.router.config import Config

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
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            _show(finding)
    faults = sum(finding.status is Status.FAULT for finding in findings)
    if args.json:
        print_json([record(finding) for finding in findings])
    else:
        print(f"{faults} fault{'s' if faults > 1 else ''}" if faults else "no faults")
    return Exit.FAILURE if faults else Exit.OK


def _show(finding: Finding) -> None:
    # One by one and flushed: some checks take seconds.
    print(f"{_MARKS[finding.status]}  {finding.check}: {printable(finding.message)}")
    if finding.remedy:
        print(f"         -> {printable(finding.remedy)}")
    sys.stdout.flush()


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    # The first checks need nothing installed. The set-up is read after them, so that they always report.
    yield from run_checks(FIRST_CHECKS, Setup())
    made: list[Setup] = []

    def read_setup(_: Setup) -> Iterator[Finding]:
        config, findings = _config(args)
        yield from findings
        made.append(_setup(args, config))

    yield from run_checks({"configuration": read_setup}, Setup())
    yield from run_checks(CHECKS, made[0] if made else Setup())


def _config(args: argparse.Namespace) -> tuple[Config | None, list[Finding]]:
    """The configuration; an invalid one is a finding, and the other checks run without it."""
    from hybrid_llm.router.config import load_config

    path = config_path(args.config)
    if path is None:
        return None, []
    try:
        config = load_config(path)
    except ConfigError as error:
        return None, [fault("configuration", str(error), "fix the file; the other checks run without it")]
    return config, [ok("configuration", f"{path}: {', '.join(spec.name for spec in config.backends)}")]


def _setup(args: argparse.Namespace, config: Config | None) -> Setup:
    from hybrid_llm.backends.grpc import GrpcSpec

    pairs = _pairs(args.tls) if args.tls is not None else {}
    clouds = [spec for spec in config.backends if isinstance(spec, GrpcSpec)] if config is not None else []
    if args.target is not None:
        clouds.append(_target(args, pairs))
    return Setup(config=config, pairs=pairs, clouds=tuple(clouds), folder=args.tls)


def _pairs(folder: Path) -> dict[str, TLSFiles]:
    """The files of each certificate in *folder*, except the authority."""
    from hybrid_llm.backends.wire.certificates import TLSFiles

    names = sorted(path.stem for path in folder.glob("*.pem") if path.stem != "ca")
    return {name: TLSFiles.from_dir(folder, name) for name in names}


def _target(args: argparse.Namespace, pairs: Mapping[str, TLSFiles]) -> GrpcSpec:
    from hybrid_llm.backends.grpc import GrpcSpec

    name = args.name or _only_client(pairs)
    if name not in pairs:
        known = ", ".join(pairs) or "none"
        raise ConfigError(f"--target needs --tls with a client certificate, and --name to choose one; found: {known}")
    return GrpcSpec(name="target", targets=(args.target,), tls=pairs[name], server_name=args.server_name)


def _only_client(pairs: Mapping[str, TLSFiles]) -> str:
    """The name of the only client certificate; empty if there is none or more than one."""
    names = [name for name, files in pairs.items() if _is_client(files)]
    return names[0] if len(names) == 1 else ""


def _is_client(files: TLSFiles) -> bool:
    from hybrid_llm.backends.wire.certificates import inspect

    try:
        return "client" in inspect(files.cert).kinds
    except ConfigError:
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
