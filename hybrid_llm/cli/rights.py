"""`hybrid-llm rights`: check rights files, and explain why a caller may do something or not."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import Command, Group, add_json, checked, database
from hybrid_llm.cli.terminal import Exit, note, output, print_json, printable
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.errors import ConfigError, PolicyError
from hybrid_llm.core.rights.counters import CountersError, DatabaseCounters
from hybrid_llm.core.rights.grants import Caller, Operation, Rights, Verdict, Wanted
from hybrid_llm.core.rights.quotas import Quotas, Usage
from hybrid_llm.policies.rights import load_rights, rights_schema


def _check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    add_json(parser)


def _check(args: argparse.Namespace) -> int:
    records: list[dict[str, object]] = []
    for path in args.files:
        try:
            rights = load_rights(path)
        except PolicyError as error:
            records.append({"file": str(path), "valid": False, "errors": [_fault(one) for one in error.errors]})
            if not args.json:
                note(printable(str(error)))
        else:
            names = [grant.name for grant in rights.grants]
            records.append({"file": str(path), "valid": True, "digest": rights.digest, "entries": names})
            if not args.json:
                print(f"{path}: valid ({rights.digest}). {_summary(rights)}")
    if args.json:
        print_json(records)
    return Exit.OK if all(each["valid"] for each in records) else Exit.CONFIG


def _fault(error: PolicyError) -> dict[str, object]:
    return {"message": str(error), "line": error.line, "column": error.column, "hint": error.hint}


def _summary(rights: Rights) -> str:
    tokens = "no tokens" if rights.tokens is None else f"tokens of {rights.tokens.issuer} ({rights.tokens.algorithm})"
    if not rights.grants:
        return f"No entry: everything is refused, {tokens}"
    return f"{len(rights.grants)} entries: {', '.join(grant.name for grant in rights.grants)}; {tokens}"


def _claim(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return name, value


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--identity", required=True, metavar="I", help="spiffe://hybrid-llm/client/NAME, jwt:SUBJECT, key:TENANT, ..."
    )
    parser.add_argument("--operation", choices=list(map(str, Operation)), default="generate", help="(generate)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="M", help="the model, or the backend; repeatable"
    )
    parser.add_argument("--task", default="chat", metavar="T", help="the task of the request (chat)")
    parser.add_argument("--tenant", metavar="T", help="the tenant that the request names")
    parser.add_argument("--token-tenant", metavar="T", help="the tenant that the token or key vouches for")
    parser.add_argument(
        "--claim",
        type=checked(_claim),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the token; repeatable",
    )
    parser.add_argument("--priority", type=int, default=0, metavar="N", help="the priority of the request (0)")
    parser.add_argument("--quotas", type=database, metavar="FILE|URL", help="also show what is used of the quotas")
    add_json(parser)


def _explain(args: argparse.Namespace) -> int:
    rights = load_rights(args.file)
    claims: dict[str, tuple[str, ...]] = {}
    for name, value in args.claim:
        claims[name] = (*claims.get(name, ()), value)
    caller = Caller(identity=args.identity, tenant=args.token_tenant, claims=claims)
    wanted = Wanted(
        operation=Operation(args.operation),
        models=tuple(args.model),
        task=args.task,
        tenant=args.tenant,
        priority=args.priority,
    )
    generates = wanted.operation is Operation.GENERATE
    verdict = rights.decide(caller, wanted) if generates else rights.may(caller, wanted.operation)
    steps = list(rights.explain(caller, wanted))
    account, usage = _account(args.quotas, verdict, caller, Rights.tenant_of(caller, wanted) or "")
    record = {
        "allowed": verdict.allowed,
        "entry": verdict.grant.name if verdict.grant else None,
        "objection": verdict.objection,
        "steps": [{"entry": name, "outcome": outcome} for name, outcome in steps],
        "account": account,
        "usage": usage,
    }
    output(record, _lines(verdict, steps, account, usage), as_json=args.json)
    return Exit.OK if verdict.allowed else Exit.FAILURE


def _account(quotas: DatabaseAddress | None, verdict: Verdict, caller: Caller, tenant: str) -> tuple[str, list[Usage]]:
    """On which account the request counts, and what that has used; nothing of a request that is denied."""
    if not verdict.allowed or verdict.grant is None:
        return "", []
    account = verdict.grant.account_of(caller, tenant)
    if quotas is None:
        return account, []
    if isinstance(quotas, Path) and not quotas.exists():
        raise ConfigError(f"{quotas} does not exist; a node makes it with `serve --quotas`", path=str(quotas))
    booked = Quotas(DatabaseCounters(quotas))
    try:
        return account, booked.usage(account, verdict.grant.limits)
    except CountersError as error:
        raise ConfigError(f"{quotas} cannot be read: {error}", path=str(quotas)) from None
    finally:
        booked.close()


def _lines(verdict: Verdict, steps: Sequence[tuple[str, str]], account: str, usage: Sequence[Usage]) -> Iterator[str]:
    for name, outcome in steps:
        yield f"entry `{name}` {outcome}"
    if not verdict.allowed:
        because = f": entry `{verdict.grant.name}` does not allow {verdict.objection}" if verdict.grant else ""
        yield f"denied{because or _BECAUSE[verdict.objection]}"
        return
    assert verdict.grant is not None
    yield f"allowed by entry `{verdict.grant.name}`, on the account {account}"
    limits = verdict.grant.limits
    for each in usage:
        limit = limits.tokens_per_minute if each.bucket == "minute" else limits.tokens_per_day
        yield f"  {each.bucket}: {each.used:,.0f} of {limit:,} tokens used, {each.reserved:,} reserved"


_BECAUSE: Final = {
    "everything": ": no entry is about this identity",
    "the tenant": ": no entry about this identity is for this tenant",
}


CHECK: Final = Command(
    about="Validate rights files, and report every error with line, column and a hint.",
    options=_check_options,
    run=_check,
    examples=("hybrid-llm rights check rights.yaml",),
    codes=(Exit.CONFIG,),
)
EXPLAIN: Final = Command(
    about="Show entry by entry why a caller may do something or not. Nothing is called.",
    options=_explain_options,
    run=_explain,
    examples=(
        "hybrid-llm rights explain rights.yaml --identity spiffe://hybrid-llm/client/app --model small-1",
        "hybrid-llm rights explain rights.yaml --identity jwt:ann --claim role=nurse --model small-1",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG),
    meanings={Exit.FAILURE: "it is denied"},
)


def _schema(_: argparse.Namespace) -> int:
    print_json(rights_schema())
    return Exit.OK


SCHEMA: Final = Command(
    about="Print the JSON Schema of rights files, for editors.",
    run=_schema,
    examples=("hybrid-llm rights schema > rights.schema.json",),
)
RIGHTS: Final = Group(
    about="Check and explain rights files: who may use a node or a gateway, and how much.",
    commands={
        "check": ("hybrid_llm.cli.rights:CHECK", "validate rights files and report every error"),
        "explain": ("hybrid_llm.cli.rights:EXPLAIN", "show why a caller may do something or not"),
        "schema": ("hybrid_llm.cli.rights:SCHEMA", "print a JSON Schema for editors"),
    },
    examples=("hybrid-llm rights check rights.yaml",),
    codes=(Exit.FAILURE, Exit.CONFIG),
)
