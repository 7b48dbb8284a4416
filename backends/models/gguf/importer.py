"""From a GGUF file to a model folder: read, write, prove, describe; the folder appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from hybrid_llm.backends.edge.folder import FileEntry, Manifest, digest_file
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models.gguf.attention import rows_per_token
from hybrid_llm.backends.models.gguf.chat import write_chat_files
from hybrid_llm.backends.models.gguf.decoder import FAST, Outline, set_accuracy, write_config, write_decoder
from hybrid_llm.backends.models.gguf.graph import DATA_NAME, load_onnx
from hybrid_llm.backends.models.gguf.layout import check_tensors, split_fused
from hybrid_llm.backends.models.gguf.proof import (
    EXACT_LIMIT,
    FAST_LIMIT,
    Proof,
    compare_exactly,
    compare_steps,
    expected_logits,
    proof_texts,
)
from hybrid_llm.backends.models.gguf.reader import Gguf
from hybrid_llm.backends.models.gguf.shape import Shape, read_shape
from hybrid_llm.backends.models.gguf.vocabulary import Vocabulary, read_vocabulary, write_tokenizer
from hybrid_llm.backends.models.manifests import staging, write_manifest
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import ConfigError

Report = Callable[[str, float], None]
"""Called with the current step and the share of the work that is done, 0 to 1."""

IMPORTER: Final = 3
"""The version of what is written: a higher one runs faster. Folders of all versions can be used.

2: tokens get the same bits alone and together, so that answers are not read again in the next turn.
3: minima are in the codes of their matrices: prompts take a tenth less time.
"""
_ROOM: Final = 1.9
"""Bytes of a folder per byte of its GGUF file, at most: 5 bits are stored in 8, and scales in single precision."""


def import_gguf(
    path: Path,
    out: Path,
    *,
    name: str,
    license: str = "unknown",  # noqa: A002 - the field's own name
    report: Report = lambda what, share: None,  # noqa: ARG005
    chat_template: str | None = None,
    all_logits: bool = False,
    portable: bool = False,
    hidden_states: bool = False,
) -> Manifest:
    """Import the GGUF file *path* as the model folder *out*, and prove that both compute the same.

    Quantised blocks are moved as they are. Nothing is downloaded; torch is not needed.

    Args:
        path: The file. Types Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16 and F32.
        out: The folder. It must not exist, and appears once the comparison has passed.
        name: The model's name in the manifest.
        license: An SPDX identifier; "unknown" takes what the file declares.
        report: Called at each step.
        chat_template: A template, or the name of one of `chat.TEMPLATES`, in place of the file's own.
        all_logits: Compute the logits of every position, which only scoring needs.
        portable: Write a folder that onnxruntime-genai runs too, as with *all_logits*: slower in long contexts, and
            without speculative decoding.
        hidden_states: Give the last layer's output after the final norm, `hidden_states`, beside the logits.

    Raises:
        ConfigError: the file is broken, hostile or of a kind that is not supported, there is not enough room on the
            disk, or the result differs from the file.
        OSError: the disk is full, or cannot be written to.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: remove it or choose another folder", path=str(out))
    load_onnx()
    report("reading the header", 0.0)
    with Gguf(path) as file:
        shape = read_shape(file)
        split_fused(file, shape)
        check_tensors(file, shape)
        vocabulary = read_vocabulary(file, shape.vocab_size)
        _check_room(file, out)
        with staging(out) as folder:
            rows = 1 if portable or all_logits else rows_per_token(shape)
            outline = Outline(rows=rows, all_logits=all_logits, hidden_states=hidden_states)
            work = _Import(file, shape, vocabulary, folder, report, outline)
            manifest = work.run(name, license, chat_template)
            folder.replace(out)
    report("done", 1.0)
    return manifest


def is_outdated(manifest: Manifest) -> bool:
    """Whether the folder was imported from a GGUF file by an older version, so that importing it again pays."""
    created = manifest.created_with
    return "source_sha256" in created and created.get("importer", 1) != IMPORTER


class _Import:
    def __init__(
        self,
        file: Gguf,
        shape: Shape,
        vocabulary: Vocabulary,
        folder: Path,
        report: Report,
        outline: Outline,
    ) -> None:
        self._file, self._shape, self._vocabulary = file, shape, vocabulary
        self._folder, self._report, self._outline = folder, report, outline

    def run(self, name: str, license_: str, template: str | None) -> Manifest:
        self._report("writing the tokenizer", 0.05)
        origin = write_chat_files(self._file, self._vocabulary, self._folder, template)
        write_tokenizer(self._vocabulary, self._folder)
        write_config(self._shape, self._folder, self._special_ids(), self._outline)
        kinds = sorted({tensor.kind.name for tensor in self._file.tensors.values() if len(tensor.shape) == 2})
        describe = partial(
            write_manifest,
            self._folder,
            name=name,
            architecture=self._shape.architecture,
            precision="+".join(kinds),
            parameters=sum(tensor.rows * tensor.columns for tensor in self._file.tensors.values()),
            license=self._license(license_),
            created_with={"source": self._file.path.name, "chat_template": origin},
            libraries=("onnxruntime", "onnx", "tokenizers", "numpy"),
        )
        describe = partial(describe, known={DATA_NAME: self._write()})
        exact, fast = self._prove(describe)
        source = digest_file(self._file.path)
        created = {
            "source": self._file.path.name,
            "source_sha256": source.sha256,
            "chat_template": origin,
            "importer": IMPORTER,
        }
        return describe(parity=_parity(exact, fast), created_with=created)

    def _prove(self, describe: Callable[[], Manifest]) -> tuple[Proof, Proof]:
        """Compare twice: in float32, where only rounding may differ, and as the model will run."""
        describe()
        model = self._open()
        texts = proof_texts(model, self._shape)
        if not texts:
            raise self._file.refuse(f"has a context of {self._shape.context} tokens: too short for a question")
        self._report("computing the same with NumPy", 0.3)
        expected = expected_logits(self._file, self._shape, texts)
        self._report("comparing in float32", 0.6)
        exact = compare_exactly(model, texts, expected)
        if not exact.largest_difference <= EXACT_LIMIT:
            raise self._file.refuse(_difference(exact))
        tokenizer = model.tokenizer
        del model
        set_accuracy(self._folder, FAST)
        describe()
        self._report("comparing", 0.8)
        fast = compare_steps(self._open(tokenizer), texts, expected)
        if not fast.divergence <= FAST_LIMIT:
            raise self._file.refuse(_difference(fast))
        return exact, fast

    def _write(self) -> FileEntry:
        self._report("writing the graph", 0.1)
        return write_decoder(self._file, self._shape, self._folder, self._outline)

    def _open(self, tokenizer: ChatTokenizer | None = None) -> EdgeModel:
        return EdgeModel(self._folder, threads=1, spin=False, tokenizer=tokenizer)  # enough, also on a busy machine

    def _special_ids(self) -> dict[str, int]:
        ids = self._vocabulary.ids
        eos = ids.get("eos", ids.get("eot", 0))
        return {
            "bos_token_id": ids.get("bos", eos),
            "eos_token_id": eos,
            "pad_token_id": ids.get("padding", eos),
        }

    def _license(self, license_: str) -> str:
        declared = self._file.metadata.get("general.license")
        return declared[:100] if license_ == "unknown" and isinstance(declared, str) and declared else license_


def _check_room(file: Gguf, out: Path) -> None:
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free, needed = shutil.disk_usage(parent).free, int(file.size * _ROOM)
    if free < needed:
        message = f"{parent} has {free / 1e6:,.0f} MB free, {needed / 1e6:,.0f} MB are needed"
        raise ConfigError(message, path=str(parent))


def _parity(exact: Proof, fast: Proof) -> dict[str, Any]:
    return {"reference": "NumPy, float32, of the GGUF file", "float32": exact.as_dict(), "as_run": fast.as_dict()}


def _difference(proof: Proof) -> str:
    return (
        "the imported model differs from the file: logits by up to "
        f"{proof.largest_difference:.3g} standard deviations, divergence {proof.divergence:.3g} nats. It is not used: "
        "please report which file this is"
    )
