"""`hybrid-llm models`: list edge models, verify a model folder, and convert a GGUF file or a Hugging Face folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, Manifest, read_manifest, verify_manifest
from hybrid_llm.cli.arguments import Command, Group, add_json
from hybrid_llm.cli.terminal import Exit, Progress, note, output, print_error, print_json, record, table
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

_DEFAULT_FOLDER: Final = Path("models")

MODELS: Final = Group(
    about="Models for the device: folders with an ONNX graph, its weights, a tokenizer and a manifest.",
    commands={
        "list": ("hybrid_llm.cli.models:LIST", "list the embedded model and the models in folders"),
        "inspect": ("hybrid_llm.cli.models:INSPECT", "verify and describe a model folder"),
        "convert": ("hybrid_llm.cli.models:CONVERT", "convert a GGUF file or a Hugging Face folder"),
    },
    examples=(
        "hybrid-llm models list",
        "hybrid-llm models inspect models/qwen",
        "hybrid-llm models convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2",
        "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4",
    ),
    codes=(Exit.CONFIG,),
)


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="a model folder, or a folder of them")
    add_json(parser)


def _list(args: argparse.Namespace) -> int:
    for root in args.folders:
        if not root.is_dir():
            raise ConfigError(f"{root} is not a folder", path=str(root))
    folders = [embedded_model()]
    folders += [path for root in args.folders or [_DEFAULT_FOLDER] for path in _model_folders(root)]
    found = list(_readable(folders))
    if args.json:
        print_json([_record(*model) for model in found])
    else:
        columns = ("model", "precision", "M parameters", "MB", "context", "folder")
        table(columns, [_row(*model) for model in found], numbers={"M parameters", "MB", "context"})
    return Exit.OK


def _model_folders(root: Path) -> Iterator[Path]:
    """*root* itself or the folders in it, as far as they have a manifest."""
    if (root / MANIFEST_NAME).is_file():
        yield root
    elif root.is_dir():
        yield from sorted(path.parent for path in root.glob(f"*/{MANIFEST_NAME}"))


def _readable(folders: list[Path]) -> Iterator[tuple[Path, Manifest]]:
    """The models whose manifest can be read; the errors of the others go to standard error."""
    for folder in folders:
        try:
            yield folder, read_manifest(folder)
        except ConfigError as error:
            print_error(error)


def _is_embedded(folder: Path) -> bool:
    return folder.resolve() == embedded_model().resolve()


def _row(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    return (
        manifest.name,
        manifest.precision,
        f"{manifest.parameters / 1e6:,.1f}",
        f"{manifest.total_bytes / 1e6:,.1f}",
        f"{manifest.context_window:,}",
        "embedded" if _is_embedded(folder) else str(folder),
    )


def _record(folder: Path, manifest: Manifest) -> dict[str, object]:
    about = {"folder": str(folder), "embedded": _is_embedded(folder)}
    return {**about, **record(manifest), "total_bytes": manifest.total_bytes}


LIST: Final = Command(
    about="List the embedded model and the models in the given folders or in ./models.",
    options=_list_options,
    run=_list,
    examples=("hybrid-llm models list", "hybrid-llm models list /srv/models --json"),
)


def _inspect_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a model folder, or `embedded`")
    add_json(parser)


def _inspect(args: argparse.Namespace) -> int:
    folder = embedded_model() if args.folder == "embedded" else Path(args.folder)
    with Progress(f"verifying {folder}") as progress:
        progress.phase("hashing every file", live_only=True)
        manifest = verify_manifest(folder)
    output({**_record(folder, manifest), "verified": True}, _description(folder, manifest), as_json=args.json)
    return Exit.OK


def _description(folder: Path, manifest: Manifest) -> Iterator[str]:
    yield f"{manifest.name}: {manifest.architecture}, {manifest.precision}, {manifest.parameters:,} parameters"
    yield f"folder          {folder}"
    yield f"context window  {manifest.context_window:,} tokens, vocabulary {manifest.vocab_size:,}"
    yield f"license         {manifest.license}"
    yield f"size            {manifest.total_bytes:,} bytes in {len(manifest.files)} files, all SHA-256 verified"
    yield from (f"  {name:<32}{entry.bytes:>14,}  {entry.sha256[:16]}" for name, entry in manifest.files.items())
    for title, facts in (("parity", manifest.parity), ("created with", manifest.created_with)):
        if facts:
            yield f"{title:<16}" + ", ".join(f"{key} {value}" for key, value in facts.items())


INSPECT: Final = Command(
    about="Verify every file of a model folder against its manifest, and describe the model.",
    options=_inspect_options,
    run=_inspect,
    examples=("hybrid-llm models inspect models/qwen", "hybrid-llm models inspect embedded --json"),
    codes=(Exit.CONFIG,),
)


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a GGUF file, or a Hugging Face folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to create; it must not exist")
    parser.add_argument(
        "--precision", choices=("int4", "int8", "fp32"), help="of the weights of a Hugging Face folder (int4)"
    )
    parser.add_argument("--name", help="the model's name; default: the name of OUT")
    parser.add_argument("--license", default="unknown", metavar="SPDX", help="licence of the weights")
    parser.add_argument(
        "--chat-template", metavar="NAME|FILE", help="chatml, gemma, or a file; for a GGUF file that has no template"
    )


def _convert(args: argparse.Namespace) -> int:
    with Progress(f"converting {args.source.name}") as progress:

        def report(phase: str, share: float) -> None:
            progress.phase(phase)
            progress.update(share)

        manifest = _converted(args, report)
    size = f"{manifest.total_bytes / 1e6:,.1f} MB"
    print(f"created {args.out}: {manifest.precision}, {size}, outputs compared with the original model")
    note(f"to use it: backends: {{edge: {{kind: onnx, model: {args.out}}}}} in hybrid.yaml")
    return Exit.OK


def _converted(args: argparse.Namespace, report: Callable[[str, float], None]) -> Manifest:
    if args.source.is_dir():
        return _convert_folder(args, report)
    from hybrid_llm.backends.models.gguf import import_gguf

    if args.precision is not None:
        raise ConfigError("--precision is for Hugging Face folders: the weights of a GGUF file stay as they are")
    template = _template(args.chat_template)
    name = args.name or args.out.name
    return import_gguf(args.source, args.out, name=name, license=args.license, report=report, chat_template=template)


def _convert_folder(args: argparse.Namespace, report: Callable[[str, float], None]) -> Manifest:
    try:
        from hybrid_llm.backends.models.convert import Precision, convert
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: {install_hint('prepare')}") from error
    precision: Precision = args.precision or "int4"
    return convert(args.source, args.out, precision, name=args.name, license=args.license, progress=report)


def _template(named: str | None) -> str | None:
    """A name stays; a file is read."""
    if named is None or not Path(named).is_file():
        return named
    return Path(named).read_text(encoding="utf-8")


CONVERT: Final = Command(
    about="Convert a GGUF file, whose weights stay as they are, or a Hugging Face folder (needs the extra `prepare`),\n"
    "and compare the outputs with those of the original model. Nothing is downloaded.",
    options=_convert_options,
    run=_convert,
    examples=(
        "hybrid-llm models convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2",
        "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4 --license Apache-2.0",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.INTERRUPTED),
)
