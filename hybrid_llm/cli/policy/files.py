"""The commands for files: `hybrid-llm policy check`, `list`, `show` and `schema`, and `hybrid-llm config schema`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hybrid_llm.cli import arguments
from hybrid_llm.cli.terminal import Exit, note, output, print_json, printable, record
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.lab.casefile import cases_schema
from hybrid_llm.policies import KNOWN_DETECTORS, Policy, builtin_names, builtin_policy
from hybrid_llm.policies.document import TagRule, policy_schema
from hybrid_llm.router.config import config_schema, load_config


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help=arguments.POLICY_HELP)
    parser.add_argument("--strict", action="store_true", help="fail on warnings too")
    arguments.add_backends(parser)
    arguments.add_json(parser)


def _check(args: argparse.Namespace) -> int:
    load, failed = arguments.policy_loader(args), False
    _warn_of_config(args.config)
    records: list[dict[str, object]] = []
    for name in args.files:
        messages: Sequence[object]
        try:
            policy = load(name)
        except ConfigError as error:
            messages, failed = (error,), True
            records.append(_invalid_record(name, error))
        else:
            messages = policy.warnings
            failed = failed or (args.strict and not all(warning.advice for warning in policy.warnings))
            records.append(_valid_record(name, policy))
            if not args.json:
                print(f"{name}: valid. {_summary(policy)}")
        if not args.json:
            for message in messages:
                note(printable(str(message)))
    if args.json:
        print_json(records)
    return Exit.CONFIG if failed else Exit.OK


def _warn_of_config(path: Path | None) -> None:
    """Name the servers of *path* to which prompts go in the clear, and figures of quality that are stale."""
    from hybrid_llm.backends.http.settings import HttpSettings
    from hybrid_llm.router.config.quality import figures_for, read_evaluated, stale_text

    if path is None:
        return
    config = load_config(path)
    if config.quality is not None:
        for name in figures_for(config.backends, read_evaluated(config.quality)).stale:
            note(printable(f"warning: {stale_text(config.quality, name)}"))
    for spec in config.backends:
        if isinstance(spec, HttpSettings) and spec.is_readable:
            note(printable(f"warning: {spec.name}: prompts go to {spec.address} in the clear (`insecure: true`)"))


def _summary(policy: Policy) -> str:
    tags = ", ".join(f"{tag} ({' '.join(sorted(rule.allow)) or 'none'})" for tag, rule in policy.tags.items())
    goals = ", ".join(f"{name} {value}" for name, value in record(policy.objectives).items() if value is not None)
    return (
        f"policy {policy.name} ({policy.digest})\n"
        f"  rules       {len(policy.rules)}\n"
        f"  tags        {tags or 'none'}\n"
        f"{''.join(f'  declared    {note}' + chr(10) for note in _declared(policy))}"
        f"  objectives  {goals or 'none'}\n"
        f"  backends    {', '.join(f'{name} ({location})' for name, location in policy.backends.items())}"
    )


def _declared(policy: Policy) -> Iterator[str]:
    """What becomes of a request for which an app declares a tag with pseudonyms."""
    for tag, rule in policy.tags.items():
        if rule.sealed:
            yield f"{tag}: goes to the cloud only through backends that are `sealed`"
        models = ", ".join(sorted(set(rule.detect) - KNOWN_DETECTORS))
        if rule.pseudonymise and rule.accept_undetected_names:
            yield f"{tag}: goes to the cloud although names may be left in it (accept_undetected_names)"
        elif rule.pseudonymise and models:
            yield f"{tag}: goes to the cloud if {models} finds names of people"
        elif rule.pseudonymise:
            yield f"{tag}: stays on the device, since none of its detectors finds names (see accept_undetected_names)"


def _invalid_record(name: str, error: ConfigError) -> dict[str, object]:
    errors = error.errors if isinstance(error, PolicyError) else (error,)
    return {"file": name, "valid": False, "errors": list(map(_error_record, errors)), "warnings": []}


def _valid_record(name: str, policy: Policy) -> dict[str, object]:
    return {
        "file": name,
        "valid": True,
        "errors": [],
        "warnings": [{key: value for key, value in record(one).items() if key != "text"} for one in policy.warnings],
        "name": policy.name,
        "digest": policy.digest,
        "rules": len(policy.rules),
        "tags": {tag: _tag_record(rule) for tag, rule in policy.tags.items()},
        "objectives": record(policy.objectives),
    }


def _tag_record(rule: TagRule) -> dict[str, object]:
    return {
        "allow": rule.allow,
        "detect": rule.detect,
        "accept_undetected_names": rule.accept_undetected_names,
        "share_name": rule.share_name,
    }


def _error_record(error: ConfigError) -> dict[str, object]:
    if not isinstance(error, PolicyError):
        return {"path": error.path, "message": str(error)}
    text = str(error).splitlines()[0].removeprefix(f"{error.path}:{error.line}:{error.column}: ")
    return {"path": error.path, "line": error.line, "column": error.column, "message": text, "hint": error.hint}


CHECK: Final = arguments.Command(
    about="Validate policy files. All errors and warnings of all files are reported, with line, column and hint.",
    options=_check_options,
    run=_check,
    examples=(
        "hybrid-llm policy check clinic.yaml",
        "hybrid-llm policy check clinic.yaml --config hybrid.yaml --strict",
        "hybrid-llm policy check policies/*.yaml --backend phone=edge --backend eu=cloud --json",
    ),
    codes=(Exit.CONFIG,),
)


def _list(args: argparse.Namespace) -> int:
    output(builtin_names(), builtin_names(), as_json=args.json)
    return Exit.OK


LIST: Final = arguments.Command(
    about="List the built-in policies.",
    options=arguments.add_json,
    run=_list,
    examples=("hybrid-llm policy list", "hybrid-llm policy list --json"),
)


def _show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")


def _show(args: argparse.Namespace) -> int:
    builtin_policy(args.name)  # rejects other names, with a suggestion
    print(arguments.policy_text(args.name), end="")
    return Exit.OK


SHOW: Final = arguments.Command(
    about="Print a built-in policy, as a start for one of your own.",
    options=_show_options,
    run=_show,
    examples=("hybrid-llm policy show balanced > policy.yaml",),
    codes=(Exit.CONFIG,),
)


def _schema_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", action="store_true", help="the schema of test cases")
    parser.add_argument(
        "--detector", action="append", default=[], metavar="NAME", help="a detector of your own; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="no effect: a schema is always JSON")
    arguments.add_backends(parser)


def _schema(args: argparse.Namespace) -> int:
    backends = None
    if args.config or args.backend:
        backends = load_config(args.config).locations if args.config else arguments.parse_backends(args.backend)
    if args.cases:
        print_json(cases_schema(backends))
    else:
        print_json(policy_schema(backends, KNOWN_DETECTORS | {*args.detector}))
    return Exit.OK


SCHEMA: Final = arguments.Command(
    about="Print the JSON Schema (draft 2020-12) of policy files; with --cases, of their test cases.\n"
    "Editors with a YAML language server use it for completion and checks; name it in the first line:\n"
    "  # yaml-language-server: $schema=policy.schema.json",
    options=_schema_options,
    run=_schema,
    examples=(
        "hybrid-llm policy schema > policy.schema.json",
        "hybrid-llm policy schema --cases > policy.cases.schema.json",
        "hybrid-llm policy schema --config hybrid.yaml --detector names > policy.schema.json",
    ),
    codes=(Exit.CONFIG,),
)


def _config_schema(_: argparse.Namespace) -> int:
    print_json(config_schema())
    return Exit.OK


CONFIG: Final = arguments.Group(
    about="Commands for hybrid.yaml. `hybrid-llm doctor --config hybrid.yaml` checks one.",
    commands={"schema": ("hybrid_llm.cli.policy.files:CONFIG_SCHEMA", "print a JSON Schema for editors")},
    examples=("hybrid-llm config schema > hybrid.schema.json",),
)
CONFIG_SCHEMA: Final = arguments.Command(
    about="Print the JSON Schema (draft 2020-12) of hybrid.yaml, with every installed kind of backend and detector.\n"
    "Editors with a YAML language server use it for completion and checks; name it in the first line:\n"
    "  # yaml-language-server: $schema=hybrid.schema.json",
    run=_config_schema,
    examples=("hybrid-llm config schema > hybrid.schema.json",),
)
