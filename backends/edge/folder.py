"""Reads and verifies a model folder: `manifest.json`, the files that it lists, and `genai_config.json`. Loads no model.

onnxruntime accepts truncated or modified files and wrong sizes without an error, so everything is checked first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hybrid_llm.backends.chat_files import file_error
from hybrid_llm.core.errors import UntrustedModel
from hybrid_llm.core.jsontext import read_json

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1
_CHECKED_SUFFIXES = (".onnx", ".data", ".json", ".jinja", ".model", ".txt")
_RECORDS = frozenset({MANIFEST_NAME, "step.json", "card.json"})
"""Not listed: what describes the other files. Nothing that runs a model reads the record and the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: its SHA-256 in hex, and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The description of a model folder. *parity* and *created_with* describe its conversion, for display."""

    name: str
    architecture: str
    precision: str
    parameters: int
    context_window: int
    vocab_size: int
    license: str = "unknown"
    created_with: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=2, sort_keys=False) + "\n"

    @property
    def kind(self) -> str:
        """The kind of backend that runs it: `onnx` generates, `encoder` and `litert` classify."""
        if "genai_config.json" in self.files:
            return "onnx"
        return "litert" if "model.tflite" in self.files else "encoder"

    @property
    def total_bytes(self) -> int:
        """Total size of the listed files."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def listed(self) -> str:
        """The name and the SHA-256 of each file, in lines."""
        return "\n".join(f"{name} {entry.sha256}" for name, entry in sorted(self.files.items()))

    @property
    def digest(self) -> str:
        """What distinguishes the model from every other one: 32 hexadecimal digits."""
        return hashlib.sha256(self.listed.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLayout:
    """Names of the graph's inputs and outputs, and the sizes of its key-value cache."""

    filename: str
    input_ids: str
    attention_mask: str
    position_ids: str | None
    logits: str
    pasts: tuple[str, ...]
    """Keys of all layers, then values."""
    presents: tuple[str, ...]
    """In the same order."""
    kv_heads: int
    head_size: int
    vocab_size: int
    context_length: int
    logit_rows: str | None = None
    """The input that says of how many last positions the logits are computed; without it, of one or of all."""
    rows_per_token: int = 1
    """Rows of a cache tensor that a run writes for each of its tokens: the token's own, then scratch behind the last.

    With more than one row, tokens get the same bits in runs of their own and together."""
    hidden_states: str | None = None
    """The output with the last layer's output after the final norm, where the model was converted with it."""

    def kv_bytes_per_token(self, item_size: int) -> int:
        """Bytes of keys and values of all layers for one token, with *item_size* bytes per number."""
        return len(self.pasts) * self.kv_heads * self.head_size * item_size

    def kv_shape(self, capacity: int) -> tuple[int, int, int, int]:
        """Shape of one cache tensor: batch, heads, tokens, head size."""
        return (1, self.kv_heads, capacity, self.head_size)


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json` of *folder* without checking the files that it lists.

    Raises:
        ConfigError: the folder or its manifest is missing, or the manifest is invalid.
    """
    if not folder.is_dir():
        raise file_error(folder, "is not a model folder: there is no such directory")
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise file_error(folder, f"has no {MANIFEST_NAME}: create the folder with hybrid-llm models convert")
    try:
        return _manifest(read_json(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise file_error(path, f"is not a model manifest ({error!r}): convert the model again") from error


def verify_manifest(folder: Path, signed: Mapping[str, str] | None = None) -> Manifest:
    """Read the manifest of *folder* and check every file against it: none missing, modified or unlisted.

    Args:
        folder: the model.
        signed: file -> SHA-256 of what a trusted signer signed, the manifest among them; None asks for no signature.

    Raises:
        ConfigError: at the first file that differs; the message names it and says what to do.
        UntrustedModel: the manifest, or a file in it, is not the signed one.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    for path in sorted(folder.iterdir()):
        if path.suffix in _CHECKED_SUFFIXES and path.name not in (*manifest.files, *_RECORDS):
            raise file_error(path, f"is not listed in {MANIFEST_NAME}: remove it or convert the model again")
    if signed is not None:
        listed = {name: entry.sha256 for name, entry in manifest.files.items()}
        for name, sha256 in {**listed, MANIFEST_NAME: digest_file(folder / MANIFEST_NAME).sha256}.items():
            if signed.get(name) != sha256:
                message = f"{folder} is not what was signed: {name} is changed"
                raise UntrustedModel(message, model=str(folder), reason="changed")
    return manifest


def digest_file(path: Path) -> FileEntry:
    """Return the SHA-256 and the size of a file, read in blocks."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return FileEntry(sha256=digest.hexdigest(), bytes=stream.tell())


def read_layout(folder: Path, manifest: Manifest) -> ModelLayout:
    """Read and check `genai_config.json` of *folder*.

    Raises:
        ConfigError: a value is missing, invalid, out of range, or differs from the manifest.
    """
    path = folder / "genai_config.json"
    if manifest.kind != "onnx":
        what = f"holds no generator: name it in hybrid.yaml as a backend of `kind: {manifest.kind}`, which classifies"
        raise file_error(folder, what)
    try:
        layout = _layout(read_json(path)["model"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise file_error(path, f"is unusable ({error!r}): convert the model again") from error
    if layout.filename not in manifest.files:
        raise file_error(path, f"names {layout.filename}, which the manifest does not list")
    for key, ours, theirs in (
        ("vocab_size", layout.vocab_size, manifest.vocab_size),
        ("context_length", layout.context_length, manifest.context_window),
    ):
        if ours != theirs:
            raise file_error(path, f"has {key} {ours}, the manifest has {theirs}: convert the model again")
    return layout


def _check_file(path: Path, entry: FileEntry) -> None:
    if not path.is_file():
        raise file_error(path, "is missing: copy the whole model folder again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise file_error(path, f"has {size:,} of {entry.bytes:,} bytes: it is incomplete or modified, copy it again")
    if digest_file(path).sha256 != entry.sha256:
        raise file_error(path, "is modified: its SHA-256 is not that of the manifest, copy it again")


def _manifest(data: Any) -> Manifest:
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION}")
    manifest = Manifest(
        name=_name(data, "name"),
        architecture=_name(data, "architecture"),
        precision=_name(data, "precision"),
        parameters=_whole(data, "parameters", 1, 1 << 62),
        context_window=_whole(data, "context_window", 1, 1 << 62),
        vocab_size=_whole(data, "vocab_size", 1, 1 << 62),
        license=str(data.get("license", "unknown")),
        created_with=dict(data.get("created_with", {})),
        parity=dict(data.get("parity", {})),
        files={_plain(name): _entry(entry) for name, entry in data["files"].items()},
    )
    if not manifest.files:
        raise ValueError("files is empty")
    return manifest


def _plain(name: str) -> str:
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def _entry(data: Mapping[str, Any]) -> FileEntry:
    sha256, size = data["sha256"], data["bytes"]
    if not isinstance(sha256, str) or len(sha256) != 64 or type(size) is not int or size < 0:
        raise ValueError("a file entry needs sha256 (64 hex digits) and bytes")
    return FileEntry(sha256=sha256.lower(), bytes=size)


def _layout(model: Mapping[str, Any]) -> ModelLayout:
    decoder = model["decoder"]
    inputs, outputs = decoder["inputs"], decoder["outputs"]
    layers = _whole(decoder, "num_hidden_layers", 1, 1000)
    return ModelLayout(
        filename=_plain(_name(decoder, "filename")),
        input_ids=_name(inputs, "input_ids"),
        attention_mask=_name(inputs, "attention_mask"),
        position_ids=_name(inputs, "position_ids") if "position_ids" in inputs else None,
        logits=_name(outputs, "logits"),
        pasts=_per_layer(inputs, "past_key_names", layers) + _per_layer(inputs, "past_value_names", layers),
        presents=_per_layer(outputs, "present_key_names", layers) + _per_layer(outputs, "present_value_names", layers),
        kv_heads=_whole(decoder, "num_key_value_heads", 1, 1024),
        head_size=_whole(decoder, "head_size", 1, 4096),
        vocab_size=_whole(model, "vocab_size", 2, 1 << 24),
        context_length=_whole(model, "context_length", 2, 1 << 24),
        logit_rows=_name(inputs, "logit_rows") if "logit_rows" in inputs else None,
        rows_per_token=_whole(decoder, "rows_per_token", 1, 1024) if "rows_per_token" in decoder else 1,
        hidden_states=_name(outputs, "hidden_states") if "hidden_states" in outputs else None,
    )


def _whole(section: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = section[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} must be a whole number from {low} to {high}")
    return value


def _name(section: Mapping[str, Any], key: str) -> str:
    value = section[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a name")
    return value


def _per_layer(section: Mapping[str, Any], key: str, layers: int) -> tuple[str, ...]:
    pattern = _name(section, key)
    if pattern.count("%d") != 1:
        raise ValueError(f"{key} must hold %d once")
    return tuple(pattern.replace("%d", str(layer)) for layer in range(layers))
