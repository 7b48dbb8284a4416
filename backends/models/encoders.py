"""Converts a BERT-class checkpoint of transformers into the folder of an encoder: export, quantise, compare.

It exports with torch's own tracer, and stores the weights in 8 bits, which processors multiply several times as fast.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from hybrid_llm.backends.edge.folder import Manifest
from hybrid_llm.backends.edge.runtime import load_runtime
from hybrid_llm.backends.encoder.files import FILES, ModelFiles, positions
from hybrid_llm.backends.encoder.model import Encoder, log_shares
from hybrid_llm.backends.models.manifests import staging, write_manifest
from hybrid_llm.backends.models.perplexity import TEXT
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint

if TYPE_CHECKING:
    from numpy.typing import NDArray

Precision = Literal["int8", "fp32"]
_CLASSES: Final[Mapping[str, str]] = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
}
"""The end of an architecture's name -> the class of transformers that loads it."""
_LEAST_AGREEMENT: Final[Mapping[str, float]] = {"fp32": 1.0, "int8": 0.95}
"""Share of the labels, of texts or tokens, that must be the original's."""
_MOST_SHIFT: Final[Mapping[str, float]] = {"fp32": 0.005, "int8": 0.05}
"""How much the probability of a label may differ on average."""
_TIE: Final = 0.02
"""Probabilities nearer to each other than this are a tie."""
_OPSET: Final = 17
_LIBRARIES: Final = ("onnxruntime", "onnx", "torch", "transformers", "tokenizers")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderParity:
    """How a converted encoder agrees with its original on *labels* labels, of the clauses of a text or their tokens."""

    labels: int
    agreement: float
    """Share of them that are the same, but for ties."""
    mean_shift: float
    """Mean difference of the probability of a label."""
    reference: str = "transformers, float32"


def is_encoder(source: Path) -> bool:
    """Whether the Hugging Face folder *source* holds a classifier of texts or of tokens."""
    return bool(_class_of(source))


def convert_encoder(
    source: Path,
    out: Path,
    precision: Precision = "int8",
    *,
    name: str | None = None,
    license: str = "unknown",  # noqa: A002 - the field's own name
    progress: Callable[[str, float], None] = lambda what, share: None,  # noqa: ARG005
) -> Manifest:
    """Convert a Hugging Face folder and compare the result with transformers. Nothing is downloaded.

    Args:
        source: The Hugging Face folder, with `config.json`, `tokenizer.json` and the weights.
        out: The folder of the encoder. It must not exist, and appears once the comparison has passed.
        precision: Of the weights.
        name: The model's name in the manifest; by default that of *out*.
        license: An SPDX identifier.
        progress: Called with the step and the share of the work that is done.

    Raises:
        ConfigError: the source is incomplete or no such model, the result differs from the original, or torch or
            transformers is not installed.
    """
    progress("checking the source", 0.0)
    _check(source, out, precision)
    with staging(out) as folder:
        progress("exporting the graph", 0.1)
        model = _load(source)
        _export(model, folder / FILES[2], precision)
        _copy(source, folder)
        progress("comparing with transformers", 0.7)
        parity = _measure(model, folder)
        _require(parity, precision)
        settings = json.loads((source / FILES[0]).read_text(encoding="utf-8"))
        manifest = write_manifest(
            folder,
            name=name or out.name,
            architecture=str(settings["architectures"][0]),
            precision=precision,
            parameters=int(model.num_parameters()),
            license=license,
            parity=asdict(parity),
            libraries=_LIBRARIES,
            sizes={"context_length": positions(settings), "vocab_size": int(settings["vocab_size"])},
        )
        folder.replace(out)
    progress("done", 1.0)
    return manifest


def _class_of(source: Path) -> str:
    try:
        names = json.loads((source / FILES[0]).read_text(encoding="utf-8"))["architectures"]
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
    if not (source / FILES[1]).is_file():
        raise ConfigError(f"{source / FILES[1]} is missing: save the fast tokenizer beside the model", path=str(source))
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ConfigError(f"{package} is not installed: {install_hint('prepare')}")


def _load(source: Path) -> Any:
    import transformers

    try:
        made = getattr(transformers, _class_of(source)).from_pretrained(
            str(source), local_files_only=True, attn_implementation="eager"
        )
    except Exception as error:  # transformers raises whatever it meets in a folder
        message = f"transformers cannot load {source} ({type(error).__name__})"
        raise ConfigError(message, path=str(source)) from error
    return made.float().eval()


def _export(model: Any, path: Path, precision: str) -> None:
    import torch

    class Logits(torch.nn.Module):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits

    names, axes = ["input_ids", "attention_mask"], {0: "rows", 1: "tokens"}
    example = torch.ones(2, 7, dtype=torch.long)
    plain = path.with_name(".plain.onnx")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),  # a module in training mode would put the model in it, and its dropout
            (example, example),
            str(plain),
            dynamo=False,
            opset_version=_OPSET,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**dict.fromkeys(names, axes), "logits": {0: "rows"} if _is_text(model) else axes},
        )
    _store(plain, path, precision)


def _is_text(model: Any) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _store(plain: Path, path: Path, precision: str) -> None:
    """Move the graph at *plain* to *path*, in 8 bits if that is the *precision*."""
    if precision == "fp32":
        plain.replace(path)
        return
    load_runtime()  # first, so that its telemetry is off
    quantization = import_module("onnxruntime.quantization")
    quantise = partial(quantization.quantize_dynamic, weight_type=quantization.QuantType.QInt8, per_channel=True)
    quantise(str(plain), str(path), extra_options={"MatMulConstBOnly": True})
    plain.unlink()


def _copy(source: Path, folder: Path) -> None:
    for name in (*FILES[:2], "tokenizer_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for path in source.glob("LICENSE*"):
        shutil.copyfile(path, folder / path.name)


def _measure(model: Any, folder: Path) -> EncoderParity:
    """Both read the clauses of a text, one by one."""
    import torch

    encoder = Encoder(ModelFiles.in_folder(folder))
    ours: list[NDArray[Any]] = []
    theirs: list[NDArray[Any]] = []
    for sentence in filter(str.strip, re.split(r"[.,;:]\s", TEXT)):
        ids = encoder.windows(sentence)[0].ids
        with torch.no_grad():
            row = torch.tensor([ids])
            logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
        theirs.append(np.exp(log_shares(logits.numpy()).reshape(-1, logits.shape[-1])))
        ours.append(np.exp(log_shares(encoder.run([ids])).reshape(-1, logits.shape[-1])))
    mine, reference = np.concatenate(ours), np.concatenate(theirs)
    first = reference.argmax(-1)[:, None]
    return EncoderParity(
        labels=len(mine),
        agreement=float((mine.max(-1) - np.take_along_axis(mine, first, -1)[:, 0] <= _TIE).mean()),
        mean_shift=float(np.abs(mine - reference).mean()),
    )


def _require(parity: EncoderParity, precision: str) -> None:
    if parity.agreement < _LEAST_AGREEMENT[precision] or parity.mean_shift > _MOST_SHIFT[precision]:
        found = f"{parity.agreement:.1%} of {parity.labels} labels are the same, probabilities differ by "
        found += f"{parity.mean_shift:.4f} on average"
        raise ConfigError(f"the result differs from the original: {found}; try --precision fp32")
