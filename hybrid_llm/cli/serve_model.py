"""`hybrid-llm serve --model --adapter`: folders of this machine, in object storage, or versions of a registry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import checked
from hybrid_llm.cli.models_registry import add_registry
from hybrid_llm.cli.models_signing import trust_of
from hybrid_llm.cli.terminal import Progress, note
from hybrid_llm.core.environment import read_environment
from hybrid_llm.core.errors import ConfigError

if TYPE_CHECKING:
    from hybrid_llm.backends.models.cache import NodeModel

_GB: Final = 1e9


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add `--model`, and where it comes from."""
    about = "config.json, *.safetensors, tokenizer; or s3://BUCKET/FOLDER; or NAME@ALIAS of a registry"
    parser.add_argument("--model", required=True, metavar="DIR|URL|NAME", help=about)
    parser.add_argument(
        "--adapter",
        type=checked(_named),
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a LoRA adapter of peft beside the model, for requests whose model is NAME; from where --model may be; "
        "repeatable",
    )
    group = parser.add_argument_group("a model of object storage; it is verified, and cached by its content")
    add_registry(group)
    group.add_argument("--model-cache", type=Path, metavar="DIR", help="the cache; default: in the user's caches")
    group.add_argument(
        "--model-cache-size",
        type=checked(_gigabytes),
        default=0,
        metavar="GB",
        help="of all models in the cache; what is unused longest goes first (what the disk has)",
    )
    group.add_argument(
        "--model-memory", type=Path, metavar="DIR", help="in memory, for encrypted models decrypted (/dev/shm)"
    )


def _named(text: str) -> tuple[str, str]:
    name, _, where = text.partition("=")
    if not name or not where:
        raise ValueError(f"{text!r} is not NAME=DIR, the name of an adapter and its folder")
    return name, where


def _gigabytes(text: str) -> int:
    """Bytes of a number of GB above 0."""
    try:
        size = int(float(text) * _GB)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise ValueError(f"{text!r} is not a number of GB above 0")
    return size


def models_of(args: argparse.Namespace) -> tuple[NodeModel, dict[str, NodeModel]]:
    """What `--model` names, and each `--adapter`.

    Raises:
        ConfigError: one is neither a folder, a URL nor a model of a registry, or two adapters have one name.
    """
    from hybrid_llm.backends.models.cache import parse_models

    named = dict(args.adapter)
    if len(named) < len(args.adapter):
        raise ConfigError("two adapters have the same name: --adapter NAME=DIR names each once")
    default = read_environment().registry or ""
    model, *adapters = parse_models(
        [args.model, *named.values()],
        registry=args.registry or "",
        default_registry=default,
        key_file=args.key_file,
    )
    return model, dict(zip(named, adapters, strict=True))


@contextmanager
def model_folders(args: argparse.Namespace) -> Iterator[tuple[Path, dict[str, Path]]]:
    """The folders of the model and of its adapters, fetched and verified; in use until the block ends.

    Errors are those of `fetched`.
    """
    model, adapters = models_of(args)
    with ExitStack() as stack:
        # An adapter is the small part: one that is refused costs no download of a model.
        named = {name: stack.enter_context(_folder(args, each, name)) for name, each in adapters.items()}
        yield stack.enter_context(_folder(args, model, args.model)), named


@contextmanager
def _folder(args: argparse.Namespace, model: NodeModel, name: str) -> Iterator[Path]:
    from hybrid_llm.backends.models.cache import Fetching, FolderModel, ModelCache, fetched
    from hybrid_llm.backends.models.cache.sealed import MEMORY

    if isinstance(model, FolderModel):
        yield model.folder
        return
    trust = trust_of(args)
    if trust is None:
        note(f"the signature of {name} is not checked: --ca FILE or --public-key FILE demands one")
    cache = ModelCache(args.model_cache or _default_cache(), args.model_cache_size)
    with Progress(f"fetching {name}", stream=sys.stderr) as progress:

        def waiting() -> None:
            progress.phase("waiting for another process that fetches it")

        fetching = Fetching(
            cache=cache, trust=trust, memory=args.model_memory or MEMORY, report=progress.step, waiting=waiting
        )
        with fetched(model, fetching) as folder:
            progress.clear()
            yield folder


def _default_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("hybrid-llm", appauthor=False) / "models"
