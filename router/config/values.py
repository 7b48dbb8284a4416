"""Reads single values of a `hybrid.yaml`: texts, numbers, names, prices. What the keys mean is in `router.config`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from hybrid_llm.policies.reader.source import Faults, did_you_mean
from hybrid_llm.policies.reader.yamltext import Mapping as Table
from hybrid_llm.policies.reader.yamltext import Scalar
from hybrid_llm.policies.reader.yamltext import Sequence as Items
from hybrid_llm.router.spending.ledger import Price

_CURRENCY: Final = re.compile(r"[A-Z]{3}")


def is_address(text: str) -> bool:
    """Whether *text* is `HOST:PORT` or `[IPv6]:PORT`."""
    host, port = text.rpartition(":")[::2]
    return bool(host) and port.isascii() and port.isdecimal() and 0 < int(port) < 65_536


def split_address(text: str) -> tuple[str, int]:
    """Host and port of what `is_address`."""
    host, _, port = text.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


class ValueReader:
    """Turns values into plain ones; whatever is wrong goes to *faults*, and a stand-in keeps the reading going."""

    def __init__(self, path: Path, faults: Faults) -> None:
        self._path = path
        self._faults = faults
        self._currency = ""

    def _price(self, table: Table) -> Price:
        """The price of a backend: `price`, or `price_per_1k_tokens` for one number; free where there is neither."""
        flat, full = table.get("price_per_1k_tokens"), self._table(table, "price")
        if full is None:
            amount = self._number(table, "price_per_1k_tokens", 0.0)
            return Price(input_per_1k=amount, output_per_1k=amount)
        if flat is not None:
            self._faults.add("a backend has `price` or `price_per_1k_tokens`, not both", flat.offset)
        self._known(full, {"input_per_1k", "output_per_1k", "currency"})
        for key in ("input_per_1k", "output_per_1k"):
            self._needed(full, key)
        return Price(
            input_per_1k=self._number(full, "input_per_1k", 0.0),
            output_per_1k=self._number(full, "output_per_1k", 0.0),
            currency=self._one_currency(full),
        )

    def _one_currency(self, table: Table) -> str:
        """The currency of a price; all prices of a file are in one."""
        text, value = self._text(table, "currency", ""), table.get("currency")
        if not text or value is None:
            return ""
        if not _CURRENCY.fullmatch(text):
            self._faults.add("`currency` is three capital letters", value.offset, "such as USD or CNY")
            return ""
        if self._currency not in ("", text):
            message = f"prices are in {self._currency} and in {text}; nothing is converted"
            self._faults.add(message, value.offset, "write all in one currency")
        self._currency = self._currency or text
        return text

    def _beside(self, name: str) -> Path:
        return self._path.parent / name

    def _known(self, table: Table, names: set[str]) -> None:
        for entry in table.entries:
            if entry.key.text not in names:
                hint = did_you_mean(entry.key.text, names)
                self._faults.add(f"`{entry.key.text}` is not a key here", entry.key.offset, hint)

    def _table(self, table: Table, key: str) -> Table | None:
        value = table.get(key)
        if value is not None and not isinstance(value, Table):
            self._faults.add(f"`{key}` is a table of `key: value`", value.offset)
            return None
        return value

    def _text(self, table: Table, key: str, default: str) -> str:
        value = table.get(key)
        if value is not None and not isinstance(value, Scalar):
            self._faults.add(f"`{key}` is one text", value.offset)
            return default
        return value.text if value is not None else default

    def _needed(self, table: Table, key: str) -> str:
        text = self._text(table, key, "")
        if not text:
            self._faults.add(f"`{key}` is missing", table.offset)
        return text

    def _number(self, table: Table, key: str, default: float) -> float:
        text = self._text(table, key, str(default))
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number < 1e9:
            self._faults.add(f"`{key}` is a number from 0", table.get(key).offset)  # type: ignore[union-attr]
            return default
        return number

    def _one_of(self, table: Table, key: str, known: tuple[str, ...]) -> str:
        text = self._text(table, key, known[0])
        if text not in known:
            self._faults.add(f"`{key}: {text}` is not known", table.offset, did_you_mean(text, known))
        return text

    def _names(self, table: Table, key: str) -> frozenset[str]:
        value = table.get(key)
        items = value.items if isinstance(value, Items) else ()
        if value is not None and not (isinstance(value, Items) and all(isinstance(item, Scalar) for item in items)):
            self._faults.add(f"`{key}` is a list of names", value.offset, f"{key}: [pii]")
        return frozenset(item.text for item in items if isinstance(item, Scalar))
