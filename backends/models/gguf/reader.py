"""Reads the header of a GGUF file (versions 2 and 3) and its tensors, each number checked before it is used.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Bytes are read, not mapped: a file that shrinks
while it is mapped kills the process.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hybrid_llm.core.errors import ConfigError

Bytes = NDArray[np.uint8]
Value = str | int | float | bool | list[str] | NDArray[Any]

HEADER_LIMIT: Final = 96 << 20
"""Bytes of metadata and tensor table. 262,144 tokens with 514,906 merges take 16 MB."""
_LIMITS: Final = {"keys": 4096, "tensors": 65_536, "strings": 1 << 20, "string": 4 << 20, "numbers": 1 << 22}
_NAME_LIMIT: Final = 512
_CHUNK: Final = 1 << 20
_NUMBERS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
"""Types of numbers, as `struct` and NumPy know them."""
_STRUCTS: Final = {code: struct.Struct(code) for code in _NUMBERS.values()}
_BOOL, _STRING, _ARRAY = 7, 8, 9


@dataclass(frozen=True, slots=True)
class Kind:
    """A tensor type: *block* numbers are stored in *size* bytes."""

    name: str
    block: int
    size: int


KINDS: Final[Mapping[int, Kind]] = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    30: Kind("BF16", 1, 2),
}
_OTHER_KINDS: Final = {
    10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of the file: *shape* with the slowest dimension first, bytes from *offset* on."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int
    bytes: int

    @property
    def rows(self) -> int:
        """Rows of the matrix; a vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        """Numbers in a row, contiguous in the file."""
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.columns // self.kind.block * self.kind.size


class Gguf:
    """An open GGUF file whose header is valid. Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open *path* and read its header.

        Raises:
            ConfigError: the file is not a whole, valid GGUF file of a known version.
        """
        self.path = path
        try:
            self._stream = path.open("rb")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
        try:
            self.size = self._stream.seek(0, 2)
            self.metadata, self.tensors = _Header(self._stream, self.size, self.refuse).read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Gguf:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def refuse(self, problem: str) -> ConfigError:
        """The error for this file, to be raised."""
        return ConfigError(f"{self.path}: {problem}", path=str(self.path))

    def rows(self, tensor: Tensor, start: int = 0, stop: int | None = None) -> Bytes:
        """Read rows *start* to *stop* of *tensor*: shape (rows, blocks in a row, bytes of a block).

        Raises:
            ConfigError: the file has become shorter.
        """
        count = (tensor.rows if stop is None else min(stop, tensor.rows)) - start
        wanted = count * tensor.row_bytes
        data = np.empty(wanted, dtype=np.uint8)
        self._stream.seek(tensor.offset + start * tensor.row_bytes)
        if self._stream.readinto(data.data) != wanted:
            raise self.refuse(f"{tensor.name} ends early: the file was changed while it was read")
        return data.reshape(count, tensor.columns // tensor.kind.block, tensor.kind.size)


class _Header:
    """A cursor over the header, which is read piece by piece, so that no number in it decides about memory."""

    def __init__(self, stream: BufferedReader, size: int, refuse: Callable[[str], ConfigError]) -> None:
        self._stream, self._size, self._refuse = stream, size, refuse
        self._stream.seek(0)
        self._data = bytearray()
        self._at = 0

    def read(self) -> tuple[dict[str, Value], dict[str, Tensor]]:
        if self._take(4) != b"GGUF":
            raise self._refuse("is not a GGUF file")
        version = self._number("<I")
        if version not in (2, 3):
            raise self._refuse(self._version_problem(version))
        tensors = self._count("<Q", "tensors", 24)
        keys = self._count("<Q", "keys", 13)
        metadata = self._metadata(keys)
        table = [self._tensor() for _ in range(tensors)]
        return metadata, self._placed(table, self._alignment(metadata))

    def _version_problem(self, version: int) -> str:
        if version in (1 << 24, 2 << 24, 3 << 24):
            return "is a big-endian GGUF file: only little-endian ones can be imported"
        return f"has GGUF version {version}: versions 2 and 3 can be imported, use a newer file of this model"

    def _metadata(self, count: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        for _ in range(count):
            key = self._text(_NAME_LIMIT, "a key")
            if key in values:
                raise self._refuse(f"has the key {key!r} twice")
            values[key] = self._value(key, self._number("<I"))
        return values

    def _value(self, key: str, kind: int) -> Value:
        if kind == _STRING:
            return self._text(_LIMITS["string"], key)
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _NUMBERS:
            raise self._refuse(f"{key} has the unknown type {kind}")
        number = self._number(_NUMBERS[kind])
        return bool(number) if kind == _BOOL else number

    def _array(self, key: str) -> list[str] | NDArray[Any]:
        kind = self._number("<I")
        if kind == _STRING:
            count = self._count("<Q", "strings", 8)
            return self._texts(count, key)
        if kind not in _NUMBERS:
            raise self._refuse(f"{key} is an array of the type {kind}: only strings and numbers are known")
        dtype = np.dtype(_NUMBERS[kind])
        count = self._count("<Q", "numbers", dtype.itemsize)
        return np.frombuffer(self._take(count * dtype.itemsize), dtype=dtype)

    def _tensor(self) -> tuple[str, tuple[int, ...], Kind, int, int]:
        name = self._text(_NAME_LIMIT, "a tensor's name")
        dimensions = self._number("<I")
        if not 1 <= dimensions <= 4:
            raise self._refuse(f"{name} has {dimensions} dimensions: 1 to 4 are possible")
        shape = tuple(int(self._number("<Q")) for _ in range(dimensions))[::-1]
        kind = self._kind(name, self._number("<I"))
        size = self._bytes(name, shape, kind)
        return name, shape, kind, int(self._number("<Q")), size

    def _kind(self, name: str, code: int) -> Kind:
        if code not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            what = _OTHER_KINDS.get(code, f"of type {code}")
            raise self._refuse(f"{name} is {what}, which cannot be imported: use a file of {known}")
        return KINDS[code]

    def _bytes(self, name: str, shape: tuple[int, ...], kind: Kind) -> int:
        if min(shape) < 1 or shape[-1] % kind.block:
            raise self._refuse(f"{name} has the shape {list(shape)}, which {kind.name} cannot hold")
        size = math.prod(shape) // kind.block * kind.size
        if size > self._size:
            raise self._refuse(f"{name} needs {size:,} bytes, and the file has {self._size:,}: it is incomplete")
        return size

    def _placed(self, table: list[tuple[str, tuple[int, ...], Kind, int, int]], alignment: int) -> dict[str, Tensor]:
        """The tensors by name, once none reaches past the end of the file or into another one."""
        base = -(-self._at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        end, last = base, "the header"
        for name, shape, kind, offset, size in sorted(table, key=lambda row: row[3]):
            if name in tensors:
                raise self._refuse(f"has the tensor {name!r} twice")
            if offset % alignment or base + offset < end:
                raise self._refuse(f"{name} begins inside {last} or at an unaligned offset: the file is broken")
            end, last = base + offset + size, name
            if end > self._size:
                raise self._refuse(
                    f"{name} ends at byte {end:,}, and the file has {self._size:,}: it is incomplete, get it again"
                )
            tensors[name] = Tensor(name=name, shape=shape, kind=kind, offset=base + offset, bytes=size)
        return tensors

    def _alignment(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 16 or alignment % 8:
            raise self._refuse("general.alignment must be a multiple of 8 up to 65,536")
        return alignment

    def _count(self, code: str, what: str, least: int) -> int:
        """A count of items of at least *least* bytes each, which the rest of the file can hold."""
        count = int(self._number(code))
        if count > _LIMITS[what] or count * least > self._size - self._at:
            raise self._refuse(
                f"announces {count:,} {what}: at most {_LIMITS[what]:,}, inside the file; it is incomplete or broken"
            )
        return count

    def _text(self, limit: int, what: str) -> str:
        size = int(self._number("<Q"))
        if size > limit:
            raise self._refuse(f"{what} has a string of {size:,} bytes: at most {limit:,}")
        return self._decoded(self._take(size), what)

    def _decoded(self, raw: bytes | bytearray, what: str) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._refuse(f"{what} has a string that is not UTF-8") from None

    def _texts(self, count: int, what: str) -> list[str]:
        """*count* strings: those that are read already in one loop, for there are hundreds of thousands."""
        texts: list[str] = []
        data, size, limit = self._data, _STRUCTS["<Q"].unpack_from, _LIMITS["string"]
        while len(texts) < count:
            at, end = self._at, len(data) - 8
            while len(texts) < count and at <= end and (length := size(data, at)[0]) <= min(limit, end - at):
                texts.append(self._decoded(data[at + 8 : at + 8 + length], what))
                at += 8 + length
            self._at = at
            if len(texts) < count:
                texts.append(self._text(limit, what))
        return texts

    def _number(self, code: str) -> Any:
        known = _STRUCTS[code]
        return known.unpack(self._take(known.size))[0]

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > HEADER_LIMIT:
            raise self._refuse(f"has a header of more than {HEADER_LIMIT:,} bytes")
        if end > self._size:
            raise self._refuse("ends inside its header: it is incomplete, get it again")
        while len(self._data) < end:
            piece = self._stream.read(max(_CHUNK, end - len(self._data)))
            if not piece:
                raise self._refuse("ends inside its header: it is incomplete, get it again")
            self._data += piece
        begin, self._at = self._at, end
        return bytes(self._data[begin:end])
