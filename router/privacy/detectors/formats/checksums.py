"""The check digits of cards, accounts, identity numbers and wallets; each takes compact text, without separators."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PERMUTED: Final = (
    "0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258",
)  # fmt: skip
_DIHEDRAL: Final = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
"""Verhoeff's permutations and the multiplication table of the dihedral group D5."""
_PLAIN: Final = bytes(byte - 48 if 48 <= byte <= 57 else 0 for byte in range(256))
_DOUBLED: Final = bytes(sum(divmod(2 * plain, 10)) for plain in _PLAIN)
"""Luhn's digits, plain and doubled, as tables for `bytes.translate`."""


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, Annex B."""
    raw = digits.encode("ascii")
    total = sum(raw[-1::-2].translate(_PLAIN)) + sum(raw[-2::-2].translate(_DOUBLED))
    return total % 10 == 0 and len(set(digits)) > 1


def mod97(compact: str) -> bool:
    """ISO 13616, IBAN: the first four characters move to the end, letters become numbers."""
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def mod11_2(compact: str) -> bool:
    """GB 11643 (ISO 7064 MOD 11-2): the Chinese resident identity number."""
    total = sum(int(c) * (2 ** (17 - i) % 11) for i, c in enumerate(compact[:17]))
    return "10X98765432"[total % 11] == compact[17].upper()


def weighted(digits: Sequence[int], weights: Sequence[int], modulus: int) -> bool:
    """Whether the weighted sum of *digits* is a multiple of *modulus*."""
    return sum(d * w for d, w in zip(digits, weights, strict=True)) % modulus == 0


def verhoeff(digits: str) -> bool:
    """J. Verhoeff, Error Detecting Decimal Codes (1969): the Aadhaar number of India."""
    check = 0
    for i, digit in enumerate(reversed(digits)):
        check = int(_DIHEDRAL[check][int(_PERMUTED[i % 8][int(digit)])])
    return check == 0


def base58check(address: str) -> bool:
    """Bitcoin's Base58Check: the last four bytes are a double SHA-256 of the others."""
    number = 0
    for char in address:
        number = number * 58 + _BASE58.index(char)
    if number.bit_length() > 200:
        return False
    raw = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4] == raw[-4:]


def bech32(address: str) -> bool:
    """BIP 173 and BIP 350 (bech32m)."""
    prefix, _, data = address.lower().rpartition("1")
    expanded = [*(ord(c) >> 5 for c in prefix), 0, *(ord(c) & 31 for c in prefix), *(_BECH32.find(c) for c in data)]
    check = 1
    for value in expanded:
        top, check = check >> 25, (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate(_GENERATORS):
            check ^= generator if top >> i & 1 else 0
    return check in {1, 0x2BC830A3}
