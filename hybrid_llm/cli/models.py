"""`hybrid-llm models`: add, choose, list, verify, remove and convert models."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from hybrid_llm.backends.edge import EdgeConfig, ModelStore, embedded_model
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, Manifest, read_layout, read_manifest, verify_manifest
from hybrid_llm.backends.edge.store import EMBEDDED
from hybrid_llm.cli.arguments import Command, Group, add_json
from hybrid_llm.cli.models_registry import REGISTRY_COMMANDS, add_filters, list_remote
from hybrid_llm.cli.steps import step_commands
from hybrid_llm.cli.terminal import Exit, Progress, note, output, print_error, print_json, record, table
from hybrid_llm.core.errors import ConfigError

_FLOAT32: Final = 4
"""Bytes."""
_DEFAULT_FOLDER: Final = Path("models")

MODELS: Final = Group(
    about="Models: on this device, the steps that prepare them, each a kind of step in recipes too, and registries.",
    commands={
        "add": ("hybrid_llm.cli.models_add:ADD", "get a model, by a name of the catalogue or from any source"),
        "list": ("hybrid_llm.cli.models:LIST", "list the added models, the embedded one and those in folders"),
        "use": ("hybrid_llm.cli.models:USE", "make an added model the default"),
        "inspect": ("hybrid_llm.cli.models:INSPECT", "verify and describe a model"),
        "verify": ("hybrid_llm.cli.models:VERIFY", "verify the files of added models"),
        "remove": ("hybrid_llm.cli.models:REMOVE", "delete an added model"),
        "run": ("hybrid_llm.cli.recipes:RUN", "run the steps of a recipe that are not up to date"),
        "card": ("hybrid_llm.cli.recipes:CARD", "print the card of a model that a recipe made"),
        **step_commands(),
        "convert": ("hybrid_llm.cli.models_convert:CONVERT", "convert a GGUF file or a Hugging Face folder"),
        "evaluate": ("hybrid_llm.cli.models_evaluate:EVALUATE", "measure models, backends and policies side by side"),
        "choose": ("hybrid_llm.cli.models_choose:CHOOSE", "choose a variant by limits on memory, speed and quality"),
        "explain": ("hybrid_llm.cli.models_explain:EXPLAIN", "show what an answer of a model follows from"),
        **REGISTRY_COMMANDS,
    },
    examples=(
        "hybrid-llm models add smollm2-135m",
        "hybrid-llm models list --available",
        "hybrid-llm models convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2",
        "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.SECURITY, Exit.INTERRUPTED),
)


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="a model folder, or a folder of them")
    parser.add_argument("--available", action="store_true", help="list what `models add` knows by name instead")
    parser.add_argument("--remote", action="store_true", help="list the versions in a registry instead")
    add_filters(parser)
    add_json(parser)


def _list(args: argparse.Namespace) -> int:
    if args.available:
        from hybrid_llm.cli.models_add import list_catalogue

        return list_catalogue(as_json=args.json)
    if args.remote:
        return list_remote(args)
    for root in args.folders:
        if not root.is_dir():
            raise ConfigError(f"{root} is not a folder", path=str(root))
    store = ModelStore()
    models = [(EMBEDDED, embedded_model()), *((name, store.folder(name)) for name in store.names())]
    models += [("", path) for root in args.folders or [_DEFAULT_FOLDER] for path in _model_folders(root)]
    default = store.default or EMBEDDED
    found = list(_readable(models))
    if args.json:
        print_json([_record(*model, default=default) for model in found])
    else:
        columns = ("name", "default", "model", "kind", "precision", "M parameters", "MB", "context", "folder")
        table(columns, [_row(*model, default=default) for model in found], numbers={"M parameters", "MB", "context"})
    return Exit.OK


def _model_folders(root: Path) -> Iterator[Path]:
    """*root* itself or the folders in it, as far as they have a manifest."""
    if (root / MANIFEST_NAME).is_file():
        yield root
    elif root.is_dir():
        yield from sorted(path.parent for path in root.glob(f"*/{MANIFEST_NAME}"))


def _readable(models: list[tuple[str, Path]]) -> Iterator[tuple[str, Path, Manifest]]:
    """The models whose manifest can be read; the errors of the others go to standard error."""
    for name, folder in models:
        try:
            yield name, folder, read_manifest(folder)
        except ConfigError as error:
            print_error(error)


def _row(name: str, folder: Path, manifest: Manifest, *, default: str) -> tuple[str, ...]:
    return (
        name or "-",
        "*" if name == default else "",
        manifest.name,
        manifest.kind,
        manifest.precision,
        f"{manifest.parameters / 1e6:,.1f}",
        f"{manifest.total_bytes / 1e6:,.1f}",
        f"{manifest.context_window:,}",
        EMBEDDED if name == EMBEDDED else str(folder),
    )


def _record(name: str, folder: Path, manifest: Manifest, *, default: str) -> dict[str, object]:
    embedded = folder.resolve() == embedded_model().resolve()
    about = {"added_as": name, "default": bool(name) and name == default, "folder": str(folder), "embedded": embedded}
    return {**about, **record(manifest), "kind": manifest.kind, "total_bytes": manifest.total_bytes}


LIST: Final = Command(
    about="List the embedded model, the added models, and the models in the given folders or in ./models. The default\n"
    "model, which `chat`, `generate` and `hybrid_llm.generate` use, has a star.",
    options=_list_options,
    run=_list,
    examples=(
        "hybrid-llm models list",
        "hybrid-llm models list /srv/models --json",
        "hybrid-llm models list --available",
        "hybrid-llm models list --remote --registry s3://models/registry --where 'accuracy>=0.8'",
    ),
)


def _use_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="an added model, or `embedded`")


def _use(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.models.store import use

    use(ModelStore(), args.name)
    print(f"{args.name} is the default model")
    return Exit.OK


USE: Final = Command(
    about="Make a model the default: `chat`, `generate`, `hybrid_llm.generate` and `model: default` use it.",
    options=_use_options,
    run=_use,
    examples=("hybrid-llm models use smollm2-135m", "hybrid-llm models use embedded"),
    codes=(Exit.CONFIG,),
)


def _remove_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="an added model")
    parser.add_argument("--force", action="store_true", help="also if it is the default model")


def _remove(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.models.store import remove

    freed = remove(ModelStore(), args.name, force=args.force)
    print(f"{args.name} is removed, {freed / 1e6:,.1f} MB are free again")
    return Exit.OK


REMOVE: Final = Command(
    about="Delete an added model. Processes that have loaded it go on with it.",
    options=_remove_options,
    run=_remove,
    examples=("hybrid-llm models remove qwen2.5-0.5b", "hybrid-llm models remove smollm2-135m --force"),
    codes=(Exit.CONFIG,),
)


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME|DIR", help="an added model, `embedded`, or a model folder")
    add_json(parser)


def _inspect(args: argparse.Namespace) -> int:
    store = ModelStore()
    added = args.model == EMBEDDED or args.model in store.names()
    name, folder = (args.model, store.folder(args.model)) if added else ("", Path(args.model))
    if not added and not folder.exists():
        raise ConfigError(
            f"{args.model} is neither an added model nor a folder: `hybrid-llm models list` shows what there is"
        )
    with Progress(f"verifying {folder}") as progress:
        progress.phase("hashing every file", live_only=True)
        manifest = verify_manifest(folder)
    origin = store.origin(name) if name not in ("", EMBEDDED) else {}
    document = {**_record(name, folder, manifest, default=store.default or EMBEDDED), "verified": True}
    if manifest.kind == "onnx":
        document["kv_bytes_per_token"] = _kv_bytes(folder, manifest)
    lines = [*_description(folder, manifest), *(f"{key:<16}{value}" for key, value in origin.items() if value)]
    output({**document, "origin": dict(origin)}, lines, as_json=args.json)
    return Exit.OK


def _description(folder: Path, manifest: Manifest) -> Iterator[str]:
    yield f"{manifest.name}: {manifest.architecture}, {manifest.precision}, {manifest.parameters:,} parameters"
    yield f"folder          {folder}"
    yield f"context window  {manifest.context_window:,} tokens, vocabulary {manifest.vocab_size:,}"
    if manifest.kind == "onnx":
        yield f"memory          {_memory(folder, manifest)}"
    else:
        yield f"kind            {manifest.kind}: it classifies, and answers no prompts"
    yield f"license         {manifest.license}"
    yield f"size            {manifest.total_bytes:,} bytes in {len(manifest.files)} files, all SHA-256 verified"
    yield from (f"  {name:<32}{entry.bytes:>14,}  {entry.sha256[:16]}" for name, entry in manifest.files.items())
    for title, facts in (("parity", manifest.parity), ("created with", manifest.created_with)):
        if facts:
            yield f"{title:<16}{_facts(facts)}"

    from hybrid_llm.backends.models.gguf import is_outdated

    if is_outdated(manifest):
        yield "note            made by an older importer: remove it and add it again for more speed"


def _facts(facts: Mapping[str, object]) -> str:
    """What a manifest states, such as `reference NumPy, as_run (positions 18, divergence 0.00379)`."""
    return ", ".join(f"{key} {_fact(value)}" for key, value in facts.items())


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({_facts(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _memory(folder: Path, manifest: Manifest) -> str:
    """What requests need besides the model, and how long they may be with the usual limit."""
    each, limit = _kv_bytes(folder, manifest), EdgeConfig().memory_limit_mb
    whole = -(-each * manifest.context_window >> 20)
    return (
        f"{each / 1024:,.1f} KiB of keys and values per token, {whole:,} MiB for the whole window; "
        f"memory_limit_mb: {limit} holds {(limit << 20) // each:,} tokens"
    )


def _kv_bytes(folder: Path, manifest: Manifest) -> int:
    return read_layout(folder, manifest).kv_bytes_per_token(_FLOAT32)


INSPECT: Final = Command(
    about="Verify every file of a model against its manifest, and describe the model and where it came from.",
    options=_inspect_options,
    run=_inspect,
    examples=(
        "hybrid-llm models inspect smollm2-135m",
        "hybrid-llm models inspect models/qwen",
        "hybrid-llm models inspect embedded --json",
    ),
    codes=(Exit.CONFIG,),
)


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="added models; default: all")


def _verify(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.models.store import verify

    store, failed = ModelStore(), False
    names = args.names or store.names()
    if not names:
        note(f"no model has been added to {store.root}")
    for name in names:
        try:
            manifest = verify(store, name)
        except ConfigError as error:
            failed = True
            print_error(error)
        else:
            print(f"{name}: {len(manifest.files)} files, {manifest.total_bytes:,} bytes, as they were added")
    return Exit.CONFIG if failed else Exit.OK


VERIFY: Final = Command(
    about="Hash every file of added models, and compare them with what was added.",
    options=_verify_options,
    run=_verify,
    examples=("hybrid-llm models verify", "hybrid-llm models verify smollm2-135m"),
    codes=(Exit.CONFIG,),
)
