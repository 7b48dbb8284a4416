"""`hybrid-llm models publish`, `pull`, `promote`, `rollback`, `history`, `gc` and `list --remote`: a registry."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, add_json, checked, secret_url
from hybrid_llm.cli.models_signing import add_trust, trust_of
from hybrid_llm.cli.terminal import Exit, Progress, note, output, print_json, record, table
from hybrid_llm.core.environment import REGISTRY, read_environment
from hybrid_llm.core.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    from hybrid_llm.backends.models.registry import AliasEntry, ModelRegistry

_CODES: Final = (Exit.FAILURE, Exit.CONFIG, Exit.SECURITY, Exit.INTERRUPTED)
REGISTRY_COMMANDS: Final = {
    "sign": ("hybrid_llm.cli.models_signing:SIGN", "sign a model folder"),
    "verify-signature": ("hybrid_llm.cli.models_signing:VERIFY_SIGNATURE", "check the signature of a model folder"),
    "publish": ("hybrid_llm.cli.models_registry:PUBLISH", "publish a model folder in a registry"),
    "pull": ("hybrid_llm.cli.models_registry:PULL", "fetch a version from a registry"),
    "promote": ("hybrid_llm.cli.models_registry:PROMOTE", "let an alias of a registry point to a version"),
    "rollback": ("hybrid_llm.cli.models_registry:ROLLBACK", "let an alias point to the version before"),
    "history": ("hybrid_llm.cli.models_registry:HISTORY", "list the moves of an alias"),
    "gc": ("hybrid_llm.cli.models_registry:GC", "delete what no version of a registry refers to"),
}
"""Name -> where the command is, and what it does in a few words."""
_COLUMNS: Final = ("name", "version", "aliases", "kind", "task", "licence", "MB", "metrics")
_DAY_S: Final = 86_400.0
_MB: Final = 1e6
_REFERENCE: Final = re.compile(r"(?P<name>[^@]+)(@(?P<which>.+))?")


def add_registry(parser: argparse._ActionsContainer, *flags: str) -> None:
    """Add `--registry` and `--key-file`; *flags* are further names of the first."""
    parser.add_argument(
        "--registry",
        *flags,
        dest="registry",
        metavar="URL",
        help=f"s3://BUCKET/FOLDER, gs://..., az://..., or a folder; default: {REGISTRY} in the environment",
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="the key of a registry that is encrypted")


def open_registry(args: argparse.Namespace, *, create: bool = False) -> ModelRegistry:
    """The registry that the options name, or the environment.

    Raises:
        ConfigError: neither names one, or it cannot be opened.
    """
    from hybrid_llm.backends.models.registry import ModelRegistry

    url = args.registry or read_environment().registry
    if not url:
        raise ConfigError(f"name a registry by --registry URL, or by {REGISTRY} in the environment")
    return ModelRegistry.open(url, key_file=args.key_file, create=create)


def _reference(args: argparse.Namespace) -> tuple[str, str]:
    """NAME or NAME@VERSION, NAME@ALIAS."""
    match = _REFERENCE.fullmatch(args.model)
    if match is None:
        raise InvalidRequest(f"{args.model!r} is not NAME, NAME@ALIAS or NAME@VERSION", field="model")
    return match["name"], match["which"] or ""


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME[@VERSION]", help="a version by alias or digits; default: the newest")


def _publish_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of a model or an adapter")
    parser.add_argument("--name", required=True, help="the model's name in the registry")
    parser.add_argument("--alias", metavar="A", help="let this alias point to it, such as canary")
    add_registry(parser, "--to")
    add_json(parser)


def _publish(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.models.registry import publish
    from hybrid_llm.backends.models.registry.describe import require_model
    from hybrid_llm.backends.models.registry.records import check_model

    check_model(args.name)
    require_model(args.folder)  # before a registry is begun
    registry = open_registry(args, create=True)
    with Progress(f"publishing {args.name}", stream=sys.stderr) as progress:
        done = publish(registry, args.folder, args.name, report=progress.step)
    if args.alias:
        registry.promote(args.name, done.version.digest, args.alias)
    manifest = done.version.manifest
    verb = "is there already" if done.was_there else "is published"
    size = f"{manifest.total_bytes / _MB:,.1f} MB in {len(manifest.files)} files, {done.sent_bytes / _MB:,.1f} MB sent"
    lines = [f"{done.version} {verb}: {size}{', its signature added' if done.signed else ''}"]
    lines += [f"{args.alias} points to it"] if args.alias else []
    about = {"name": args.name, "version": done.version.digest, "alias": args.alias}
    sent = {"was_there": done.was_there, "sent_bytes": done.sent_bytes, "signed": done.signed}
    output({**about, **sent}, lines, as_json=args.json)
    if manifest.about.kind == "folder":
        note(f"{args.folder} holds no model that hybrid-llm knows: its files are published as they are")
    return Exit.OK


PUBLISH: Final = Command(
    about="Publish a model folder as a version of NAME. The version is the hash of its content: the same folder is\n"
    "the same version, and nothing is overwritten. An interrupted call goes on where it ended.",
    options=_publish_options,
    run=_publish,
    examples=(
        "hybrid-llm models publish models/smollm2 --name smollm2 --to s3://models/registry",
        "hybrid-llm models publish models/smollm2 --name smollm2 --to /srv/registry --alias canary",
    ),
    codes=_CODES,
)


def _pull_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--as", dest="local", metavar="NAME", help="the name in the store of this device; default: NAME"
    )
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="into this folder, not into the store: any kind of model"
    )
    add_registry(parser)
    add_trust(parser)
    add_json(parser)


def _pull(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.edge.store import ModelStore
    from hybrid_llm.backends.models.registry import pull
    from hybrid_llm.backends.models.registry.device import DeviceModel

    name, which = _reference(args)
    if args.into is not None and args.local is not None:
        raise ConfigError("--as names a model of the store, --into a folder: give one of both")
    trust = trust_of(args)
    registry = open_registry(args)
    version = registry.resolve(name, which)
    device = None if args.into is not None else DeviceModel(ModelStore(), args.local or name)
    with Progress(f"pulling {version}", stream=sys.stderr) as progress:

        def waiting() -> None:
            progress.phase("waiting for another process that pulls it")

        fetch = partial(pull, folder=args.into) if device is None else device.pull
        done = fetch(registry, version, trust=trust, report=progress.step, waiting=waiting)
    if device is not None:
        device.activate(version.short)
    verb = "is there already" if done.was_there else f"is here, {done.received_bytes / _MB:,.1f} MB received"
    document = {"name": name, "version": version.digest, **record(done)}
    output(document, [f"{version} {verb}: {done.folder}"], as_json=args.json)
    if trust is None:
        note("its signature was not checked: --ca FILE or --public-key FILE demands one")
    return Exit.OK


PULL: Final = Command(
    about="Fetch a version of a model: into the store of this device, where it takes the place of the version before,\n"
    "or into a folder. Only what this machine lacks is fetched; nothing is visible until all of it is verified.",
    options=_pull_options,
    run=_pull,
    examples=(
        "hybrid-llm models pull smollm2@prod --registry s3://models/registry --ca certs/ca.pem",
        "hybrid-llm models pull sentiment --registry file:///srv/registry --into models/sentiment",
    ),
    codes=_CODES,
)


def _promote_options(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("alias", metavar="ALIAS", help="what is to point to it, such as prod")
    parser.add_argument("--expect", metavar="VERSION", help="only if it points to this version now; '' for none")
    parser.add_argument(
        "--share",
        type=checked(_share),
        default=1.0,
        metavar="PERCENT",
        help="of the devices that follow (default: 100%%)",
    )
    add_registry(parser)
    add_json(parser)


def _share(text: str) -> float:
    """The share that a percentage such as `10%` names."""
    try:
        share = float(text.removesuffix("%")) / 100.0
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{text!r} is no percentage of more than 0 and at most 100, such as 10%")
    return share


def _promote(args: argparse.Namespace) -> int:
    name, which = _reference(args)
    entry = open_registry(args).promote(name, which, args.alias, expect=args.expect, share=args.share)
    return _moved(args, name, entry)


def _moved(args: argparse.Namespace, name: str, entry: AliasEntry) -> int:
    from hybrid_llm.backends.models.registry.records import SHORT

    share = "" if entry.share == 1.0 else f" for {entry.share * 100:.4g} % of the devices that follow it"
    text = f"{entry.alias} of {name} points to {entry.version[:SHORT]}{share}, its move number {entry.number}"
    output({"name": name, **record(entry)}, [text], as_json=args.json)
    return Exit.OK


PROMOTE: Final = Command(
    about="Let an alias point to a version, in one step. Of two who do so at once one gets an error.",
    options=_promote_options,
    run=_promote,
    examples=(
        "hybrid-llm models promote smollm2@canary prod --registry s3://models/registry",
        "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod --expect 99b01c22aa10",
        "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod --share 10%",
    ),
    codes=_CODES,
)


def _rollback_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help="the model")
    parser.add_argument("alias", metavar="ALIAS", help="the alias that returns to where it pointed before")
    add_registry(parser)
    add_json(parser)


def _rollback(args: argparse.Namespace) -> int:
    return _moved(args, args.model, open_registry(args).rollback(args.model, args.alias))


ROLLBACK: Final = Command(
    about="Let an alias point to the version before; again and again, to ever earlier ones.",
    options=_rollback_options,
    run=_rollback,
    examples=("hybrid-llm models rollback smollm2 prod --registry s3://models/registry",),
    codes=_CODES,
)


def _history_options(parser: argparse.ArgumentParser) -> None:
    _rollback_options(parser)


def _history(args: argparse.Namespace) -> int:
    moves = open_registry(args).history(args.model, args.alias)
    output([record(entry) for entry in moves], _history_lines(moves), as_json=args.json)
    return Exit.OK


def _history_lines(moves: list[AliasEntry]) -> Iterator[str]:
    for entry in moves:
        share = "" if entry.share == 1.0 else f"  {entry.share * 100:.4g} % of the devices"
        yield f"{entry.number:>4}  {entry.moved}  {entry.version}{share}"


HISTORY: Final = Command(
    about="List every move of an alias: its number, when, and to which version.",
    options=_history_options,
    run=_history,
    examples=("hybrid-llm models history smollm2 prod --registry s3://models/registry",),
    codes=_CODES,
)


def _gc_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grace", type=float, default=24.0, metavar="H", help="hours that what is unused stays (24)")
    parser.add_argument(
        "--versions", type=float, metavar="D", help="delete also versions of D days that no alias has pointed to"
    )
    parser.add_argument("--dry-run", action="store_true", help="only report what would be deleted")
    add_registry(parser)
    add_json(parser)


def _gc(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.models.registry.collect import collect

    unused = None if args.versions is None else args.versions * _DAY_S
    done = collect(open_registry(args), grace_s=args.grace * 3600.0, unused_s=unused, dry_run=args.dry_run)
    verb = "would be deleted" if args.dry_run else "deleted"
    lines = [f"{done.blobs} pieces, {done.bytes / _MB:,.1f} MB, and {len(done.versions)} versions {verb}"]
    lines += [] if done.complete else ["there is more: run it again"]
    output(record(done), lines, as_json=args.json)
    return Exit.OK


GC: Final = Command(
    about="Delete what no version of a registry refers to. Who publishes meanwhile waits, and loses nothing.",
    options=_gc_options,
    run=_gc,
    examples=(
        "hybrid-llm models gc --registry s3://models/registry --dry-run",
        "hybrid-llm models gc --registry s3://models/registry --versions 90",
    ),
    codes=_CODES,
)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add what `models list --remote` can be narrowed by."""
    group = parser.add_argument_group("with --remote")
    add_registry(group)
    for name in ("name", "kind", "task", "licence"):
        group.add_argument(f"--{name}", default="", help=f"only of this {name}")
    group.add_argument(
        "--where", action="append", default=[], metavar="BOUND", help="only within this bound, such as 'accuracy>=0.8'"
    )
    group.add_argument(
        "--index",
        type=secret_url,
        metavar="URL",
        help="a database to refresh and to ask: sqlite:///FILE or postgresql://..., or file:PATH or env:NAME of that",
    )


def list_remote(args: argparse.Namespace) -> int:
    """List the versions of a registry."""
    from hybrid_llm.backends.models.registry.listing import Bound, Filter, listed, rows_of

    bounds = tuple(map(Bound.parse, args.where))
    wanted = Filter(name=args.name, kind=args.kind, task=args.task, licence=args.licence, bounds=bounds)
    registry = open_registry(args)
    if args.index is None:
        rows = listed(registry, wanted)
    else:
        from hybrid_llm.backends.models.registry.index import RegistryIndex

        with closing(RegistryIndex(args.index)) as index:
            index.refresh(registry)
            rows = index.find(registry, wanted)
    if args.json:
        print_json(rows)
    else:
        table(_COLUMNS, list(rows_of(rows)), numbers={"MB"})
    return Exit.OK
