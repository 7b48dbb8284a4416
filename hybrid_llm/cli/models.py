"""`hybrid-llm models`: which edge models there are, whether a folder is whole, and making one from Hugging Face's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.cli.arguments import add_json, describe, subcommands
from hybrid_llm.cli.terminal import Exit, Progress, note, print_error, print_json, record
from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from hybrid_llm.backends.edge.folder import Manifest


_EXTRA = "pip install 'hybrid-llm[prepare]'"
_HERE = Path("models")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model folder and its manifest."""

    folder: Path
    embedded: bool
    manifest: Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands and their help."""
    describe(
        parser,
        "Models for the device: a folder with an ONNX graph, its weights, a tokenizer and a manifest.",
        examples=[
            "hybrid-llm models list",
            "hybrid-llm models inspect models/qwen",
            "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4",
        ],
        codes=(Exit.CONFIG,),
    )
    group = subcommands(parser, "action")
    _add_list(group.add_parser("list", help="list the embedded model and those in folders", allow_abbrev=False))
    _add_inspect(group.add_parser("inspect", help="verify a model folder and describe it", allow_abbrev=False))
    _add_convert(group.add_parser("convert", help="convert a Hugging Face folder", allow_abbrev=False))


def _add_list(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "List the embedded model, and the models in the folders given or in ./models.",
        examples=["hybrid-llm models list", "hybrid-llm models list /srv/models --json"],
        codes=(),
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="a model folder, or a folder of them")
    add_json(parser)
    parser.set_defaults(act=_list)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        "Verify every file of a model folder against its manifest, and describe the model.",
        examples=["hybrid-llm models inspect models/qwen", "hybrid-llm models inspect embedded --json"],
        codes=(Exit.CONFIG,),
    )
    parser.add_argument("folder", metavar="DIR", help="a model folder; `embedded` is the one of the library")
    add_json(parser)
    parser.set_defaults(act=_inspect)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    describe(
        parser,
        f"Convert a Hugging Face folder and prove it against the original. Nothing is fetched.\nNeeds {_EXTRA}.",
        examples=[
            "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4 --license Apache-2.0"
        ],
        codes=(Exit.FAILURE, Exit.CONFIG, Exit.INTERRUPTED),
    )
    parser.add_argument("source", type=Path, metavar="HF_DIR", help="config.json, *.safetensors, tokenizer.json")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to make; it must not exist")
    parser.add_argument("--precision", choices=("int4", "int8", "fp32"), default="int4", help="of the weights (int4)")
    parser.add_argument("--name", help="the model's name; default: the name of OUT")
    parser.add_argument("--license", default="unknown", metavar="SPDX", help="licence of the weights")
    parser.set_defaults(act=_convert)


def run(args: argparse.Namespace) -> int:
    """Run the chosen sub-command."""
    code: int = args.act(args)
    return code


def _embedded() -> Path:
    from hybrid_llm.backends.edge import embedded_model

    return embedded_model()


def _model_folders(root: Path) -> Iterator[Path]:
    """*root* itself, or the folders in it, as far as they have a manifest."""
    from hybrid_llm.backends.edge.folder import MANIFEST_NAME

    if (root / MANIFEST_NAME).is_file():
        yield root
    elif root.is_dir():
        yield from sorted(path.parent for path in root.glob(f"*/{MANIFEST_NAME}"))


def _list(args: argparse.Namespace) -> int:
    roots = args.folders or [_HERE]
    missing = [root for root in args.folders if not root.is_dir()]
    if missing:
        raise ConfigError(f"{missing[0]} is not a folder", path=str(missing[0]))
    folders = [(_embedded(), True)]
    folders += [(path, False) for root in roots for path in _model_folders(root)]
    found = list(_readable(folders))
    if args.json:
        print_json([_record(item) for item in found])
    else:
        print("\n".join(_row(item) for item in found) or "no model found; see `hybrid-llm models convert --help`")
    return Exit.OK


def _readable(folders: list[tuple[Path, bool]]) -> Iterator[Found]:
    """What can be read; a manifest that cannot is told on standard error."""
    from hybrid_llm.backends.edge.folder import read_manifest

    for folder, embedded in folders:
        try:
            yield Found(folder=folder, embedded=embedded, manifest=read_manifest(folder))
        except ConfigError as error:
            print_error(error)


def _row(found: Found) -> str:
    manifest = found.manifest
    place = "embedded" if found.embedded else str(found.folder)
    return (
        f"{manifest.name:<24}{manifest.precision:<6}{manifest.parameters / 1e6:>8,.1f} M parameters"
        f"{manifest.total_bytes / 1e6:>9,.1f} MB{manifest.context_window:>8,} tokens   {place}"
    )


def _record(found: Found) -> dict[str, object]:
    return {
        "folder": str(found.folder),
        "embedded": found.embedded,
        **record(found.manifest),
        "total_bytes": found.manifest.total_bytes,
    }


def _inspect(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.edge.folder import verify_manifest

    folder = _embedded() if args.folder == "embedded" else Path(args.folder)
    with Progress(f"verifying {folder}") as progress:
        if progress.live:
            progress.phase("reading every file")
        manifest = verify_manifest(folder)
    found = Found(folder=folder, embedded=folder.resolve() == _embedded().resolve(), manifest=manifest)
    if args.json:
        print_json({**_record(found), "verified": True})
    else:
        print(_description(found))
    return Exit.OK


def _description(found: Found) -> str:
    manifest = found.manifest
    lines = [
        f"{manifest.name}: {manifest.architecture}, {manifest.precision}, {manifest.parameters:,} parameters",
        f"folder          {found.folder}",
        f"context window  {manifest.context_window:,} tokens, vocabulary {manifest.vocab_size:,}",
        f"license         {manifest.license}",
        f"size            {manifest.total_bytes:,} bytes in {len(manifest.files)} files, SHA-256 of all verified",
    ]
    lines += [f"  {name:<32}{entry.bytes:>14,}  {entry.sha256[:16]}" for name, entry in manifest.files.items()]
    for title, facts in (("parity", manifest.parity), ("created with", manifest.created_with)):
        lines += [f"{title:<16}" + ", ".join(f"{key} {value}" for key, value in facts.items())] if facts else []
    return "\n".join(lines)


def _convert(args: argparse.Namespace) -> int:
    try:
        from hybrid_llm.backends.models.convert import convert
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: {_EXTRA}") from error
    with Progress(f"converting {args.source.name}") as progress:

        def report(what: str, share: float) -> None:
            progress.phase(what)
            progress.update(share, 1.0)

        manifest = convert(args.source, args.out, args.precision, name=args.name, license=args.license, progress=report)
    print(f"made {args.out}: {manifest.precision}, {manifest.total_bytes / 1e6:,.1f} MB, proved against the original")
    note(f"use it: backends: {{edge: {{kind: onnx, model: {args.out}}}}} in hybrid.yaml")
    return Exit.OK
