"""The random numbers of a private tuning: which units are drawn for a step, and the Gaussian noise of its gradient.

They are the key stream of AES-256 in counter mode (NIST SP 800-38A), under one key for the whole run and with a counter
that begins with the number of the step. A step that is repeated after a crash draws the same numbers as before, so that
repeating it reveals nothing new.
"""

from __future__ import annotations

import hashlib
import os
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replacing

_KEY_BYTES: Final = 32
_CHUNK: Final = 1 << 20
_SUMMED: Final = 4


class Randomness(StrEnum):
    """Where the key comes from."""

    SECURE = "secure"
    """The operating system; it is deleted with the scratch folder of the step."""
    SEEDED = "seeded"
    """The seed of the step, for experiments and tests: whoever has the seed can take the noise off."""


class Purpose(IntEnum):
    """What numbers are drawn for; each has its own part of the stream."""

    SAMPLING = 0
    NOISE = 1


class Stream:
    """Numbers for one purpose in one step."""

    def __init__(self, key: bytes, step: int, purpose: Purpose) -> None:
        block = step.to_bytes(6, "big") + purpose.to_bytes(2, "big") + bytes(8)
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(block)).encryptor()

    def uniform(self, count: int) -> NDArray[np.float64]:
        """*count* numbers above 0 and below 1, with 52 bits each."""
        words = np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")
        return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def normal(self, count: int) -> NDArray[np.float64]:
        """*count* standard normal numbers, each half the sum of four by Box and Muller.

        The sum hides which of the representable numbers a single draw can give (Holohan and Braghin 2021, section 5.1).
        """
        parts = [self._summed(min(_CHUNK, count - start)) for start in range(0, count, _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _summed(self, count: int) -> NDArray[np.float64]:
        half = _SUMMED * count // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(half)))
        angle = 2.0 * np.pi * self.uniform(half)
        drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        total: NDArray[np.float64] = drawn.reshape(_SUMMED, count).sum(axis=0) / np.sqrt(_SUMMED)
        return total


class Draws:
    """All random numbers of one run."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def seeded(cls, seed: int) -> Draws:
        """The numbers that belong to *seed*."""
        return cls(hashlib.sha256(f"hybrid-llm private tuning {seed}".encode()).digest())

    @classmethod
    def kept(cls, path: Path) -> Draws:
        """Numbers under the key in *path*, which only its owner can read; it is made if there is none.

        Raises:
            ConfigError: the file is no key.
        """
        if not path.exists():
            _write_key(path)
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise ConfigError(f"{path} is damaged: delete its folder, and tune from the beginning", path=str(path))
        return cls(key)

    def sampled(self, step: int, units: int, rate: float) -> NDArray[np.int64]:
        """Which of *units* take part in *step*: each with probability *rate*, independently (Poisson sampling)."""
        return np.flatnonzero(Stream(self._key, step, Purpose.SAMPLING).uniform(units) < rate)

    def noise(self, step: int) -> Stream:
        """The noise of *step*."""
        return Stream(self._key, step, Purpose.NOISE)


def _write_key(path: Path) -> None:
    with replacing(path, mode=0o600, sync=True) as file:
        file.write(os.urandom(_KEY_BYTES))
