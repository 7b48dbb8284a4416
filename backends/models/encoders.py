"""Converts a BERT-class checkpoint of transformers into the folder of an encoder: export, quantise, compare."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from hybrid_llm.backends.edge.folder import Manifest
from hybrid_llm.backends.encoder.files import CONFIG, LITERT, ONNX, TOKENIZER, ModelFiles, positions
from hybrid_llm.backends.encoder.model import Encoder
from hybrid_llm.backends.models.encoder_parity import measure, require
from hybrid_llm.backends.models.manifests import staging, write_manifest
from hybrid_llm.backends.node.engines import check_folder, weight_files
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.jsontext import read_json

Precision = Literal["int8", "fp32"]
Runtime = Literal["onnx", "litert"]
_CLASSES: Final[Mapping[str, str]] = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
"""The end of an architecture's name -> the class of transformers that loads it."""
_COPIED: Final = (CONFIG, TOKENIZER, "tokenizer_config.json")


class _Target(NamedTuple):
    """A runtime: what writes its graph, and reads it.

    Attributes:
        graph: Name of the file with the weights.
        export: Writes the graph of a model of transformers to a path, in a precision.
        open: Opens a folder.
        libraries: Whose versions are recorded.
    """

    graph: str
    export: Callable[[Any, Path, str], None]
    open: Callable[[Path], Encoder]
    libraries: tuple[str, ...]


def is_encoder(source: Path) -> bool:
    """Whether the Hugging Face folder *source* holds a classifier of texts or of tokens."""
    return bool(_class_of(source))


def require_onnx(to: str, source: Path) -> None:
    """Raise ConfigError if *source*, which is no encoder, shall go to another runtime."""
    if to != "onnx":
        raise ConfigError(f"{source} is a generator: {to} runs encoders only, convert it to onnx", path=str(source))


def convert_encoder(
    source: Path,
    out: Path,
    precision: Precision = "int8",
    *,
    to: Runtime = "onnx",
    texts: Sequence[str] = (),
    name: str | None = None,
    license: str = "unknown",  # noqa: A002 - the field's own name
    progress: Callable[[str, float], None] = lambda what, share: None,  # noqa: ARG005
) -> Manifest:
    """Convert a Hugging Face folder and compare the result with transformers. Nothing is downloaded.

    Args:
        source: The Hugging Face folder, with `config.json`, `tokenizer.json` and the weights.
        out: The folder of the encoder. It must not exist, and appears once the comparison has passed.
        precision: Of the weights.
        to: The runtime that the folder is for.
        texts: What both models read when they are compared, best of the model's task; by default clauses of a book.
        name: The model's name in the manifest; by default that of *out*.
        license: An SPDX identifier.
        progress: Called with the step and the share of the work that is done.

    Raises:
        ConfigError: the source is incomplete or no such model, the result differs from the original, or torch,
            transformers or the converter is not installed.
    """
    progress("checking the source", 0.0)
    _check(source, out, precision)
    target = _target(to)
    with staging(out) as folder:
        progress("exporting the graph", 0.1)
        model = _load(source)
        target.export(model, folder / target.graph, precision)
        _copy(source, folder)
        progress("comparing with transformers", 0.7)
        parity = measure(model, target.open(folder), texts)
        require(parity, precision)
        settings = read_json(source / CONFIG)
        manifest = write_manifest(
            folder,
            name=name or out.name,
            architecture=str(settings["architectures"][0]),
            precision=precision,
            parameters=int(model.num_parameters()),
            license=license,
            parity={key: round(v, 5) if isinstance(v, float) else v for key, v in asdict(parity).items()},
            libraries=target.libraries,
            sizes={"context_length": positions(settings), "vocab_size": int(settings["vocab_size"])},
        )
        folder.replace(out)
    progress("done", 1.0)
    return manifest


def _class_of(source: Path) -> str:
    try:
        names = read_json(source / CONFIG)["architectures"]
        return next((cls for end, cls in _CLASSES.items() if str(names[0]).endswith(end)), "")
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _check(source: Path, out: Path, precision: str) -> None:
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {precision!r}: an encoder is stored in {' or '.join(get_args(Precision))}")
    if out.exists():
        raise ConfigError(f"{out} exists: remove it or choose another folder", path=str(out))
    if not _class_of(source):
        raise ConfigError(f"{source} is no classifier of texts or tokens, by its config.json", path=str(source))
    if not (source / TOKENIZER).is_file():
        raise ConfigError(
            f"{source / TOKENIZER} is missing: save the fast tokenizer beside the model", path=str(source)
        )
    weight_files(source)
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: {install_hint('prepare')}")
    check_folder(source)


def _target(runtime: Runtime) -> _Target:
    if runtime == "onnx":
        from hybrid_llm.backends.models.encoder_onnx import LIBRARIES, export

        return _Target(ONNX, export, lambda folder: Encoder(ModelFiles.in_folder(folder)), LIBRARIES)
    from hybrid_llm.backends.litert.graph import LiteRTGraph
    from hybrid_llm.backends.models import encoder_litert

    encoder_litert.require_converter()
    return _Target(
        LITERT,
        encoder_litert.export,
        lambda folder: Encoder(ModelFiles.in_folder(folder, LITERT), open_graph=LiteRTGraph),
        encoder_litert.LIBRARIES,
    )


def _load(source: Path) -> Any:
    import transformers

    try:
        made = getattr(transformers, _class_of(source)).from_pretrained(
            str(source),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="eager",
        )
    except Exception as error:  # transformers raises whatever it meets in a folder
        message = f"transformers cannot load {source} ({type(error).__name__})"
        raise ConfigError(message, path=str(source)) from error
    return made.float().eval()


def _copy(source: Path, folder: Path) -> None:
    for name in _COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for path in source.glob("LICENSE*"):
        shutil.copyfile(path, folder / path.name)
