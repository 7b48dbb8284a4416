"""`hybrid-llm models convert`: a checkpoint as the folder of a device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hybrid_llm.backends.edge.folder import Manifest
from hybrid_llm.cli.arguments import Command
from hybrid_llm.cli.models_add import add_hidden_states, one_blas_thread
from hybrid_llm.cli.terminal import Exit, Progress, note
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint


def _convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a GGUF file, or a Hugging Face folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to create; it must not exist")
    parser.add_argument(
        "--precision",
        choices=("int4", "int8", "fp32"),
        help="of the weights of a Hugging Face folder (int4; encoders int8)",
    )
    parser.add_argument(
        "--to", choices=("onnx", "litert"), default="onnx", help="the runtime; litert for encoders only (onnx)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="texts of an encoder's task, to compare it on: a data folder, or lines",
    )
    parser.add_argument("--name", help="the model's name; default: the name of OUT")
    parser.add_argument("--license", default="unknown", metavar="SPDX", help="licence of the weights")
    add_hidden_states(parser)
    parser.add_argument(
        "--chat-template", metavar="NAME|FILE", help="chatml, gemma, or a file; for a GGUF file that has no template"
    )


def _convert(args: argparse.Namespace) -> int:
    from hybrid_llm.backends.models.space import disk_errors

    with Progress(f"converting {args.source.name}") as progress:

        def report(phase: str, share: float) -> None:
            progress.phase(phase)
            progress.update(share)

        with disk_errors(args.out.absolute().parent, "or choose another folder"):
            manifest = _converted(args, report)
    size = f"{manifest.total_bytes / 1e6:,.1f} MB"
    print(f"created {args.out}: {manifest.precision}, {size}, outputs compared with the original model")
    encoder = "litert" if args.to == "litert" else "encoder"
    entry = f"encoder: {{kind: {encoder}" if _is_encoder(args.source) else "edge: {kind: onnx"
    note(f"to use it: backends: {{{entry}, model: {args.out}}}}} in hybrid.yaml")
    return Exit.OK


def _converted(args: argparse.Namespace, report: Callable[[str, float], None]) -> Manifest:
    if args.source.is_dir():
        return _convert_folder(args, report)
    one_blas_thread()
    from hybrid_llm.backends.models.encoders import require_onnx
    from hybrid_llm.backends.models.gguf import import_gguf

    require_onnx(args.to, args.source)

    if args.precision is not None:
        raise ConfigError("--precision is for Hugging Face folders: the weights of a GGUF file stay as they are")
    template = _template(args.chat_template)
    name = args.name or args.out.name
    return import_gguf(
        args.source,
        args.out,
        name=name,
        license=args.license,
        report=report,
        chat_template=template,
        hidden_states=args.hidden_states,
    )


def _is_encoder(source: Path) -> bool:
    from hybrid_llm.backends.models.encoders import is_encoder

    return source.is_dir() and is_encoder(source)


def _convert_folder(args: argparse.Namespace, report: Callable[[str, float], None]) -> Manifest:
    try:
        from hybrid_llm.backends.models import encoders
        from hybrid_llm.backends.models.convert import Precision, convert
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: {install_hint('prepare')}") from error
    if _is_encoder(args.source):
        kept: encoders.Precision = args.precision or "int8"
        return encoders.convert_encoder(
            args.source,
            args.out,
            kept,
            to=args.to,
            texts=_texts(args.data),
            name=args.name,
            license=args.license,
            progress=report,
        )
    encoders.require_onnx(args.to, args.source)
    precision: Precision = args.precision or "int4"
    return convert(
        args.source,
        args.out,
        precision,
        name=args.name,
        license=args.license,
        hidden_states=args.hidden_states,
        progress=report,
    )


def _texts(path: Path | None) -> list[str]:
    from hybrid_llm.prepare.convert import sample_texts

    return sample_texts(path) if path else []


def _template(named: str | None) -> str | None:
    """A name stays; a file is read."""
    from hybrid_llm.backends.models.gguf.chat import TEMPLATES

    if named is None or named in TEMPLATES:
        return named
    if not Path(named).is_file():
        raise ConfigError(f"--chat-template: {named!r} is none of {', '.join(TEMPLATES)}, nor a text file")
    return Path(named).read_text(encoding="utf-8")


CONVERT: Final = Command(
    about="Convert a GGUF file, whose weights stay as they are, or a Hugging Face folder (needs the extra `prepare`),\n"
    "of a generator or a BERT-class encoder that classifies texts or tokens,\n"
    "and compare the outputs with those of the original model. Nothing is downloaded.",
    options=_convert_options,
    run=_convert,
    examples=(
        "hybrid-llm models convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2",
        "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4 --license Apache-2.0",
        "hybrid-llm models convert ./sentiment models/sentiment-litert --to litert --data reviews.txt",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.INTERRUPTED),
)
