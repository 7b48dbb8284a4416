"""How the commands print: answers as they come, JSON for machines, errors as one message. No command lives here."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

from hybrid_llm.router.types import Decision, Generation

__all__ = [
    "decision_record",
    "generation_record",
    "note",
    "print_error",
    "print_json",
    "printable",
    "record",
    "write",
]

_KEEP = frozenset("\n\t")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEEP}


def printable(text: str) -> str:
    """*text* with control characters made visible: an answer must not command the reader's terminal."""
    return text.translate(_CONTROLS)


def write(text: str) -> None:
    """Show a piece of an answer at once: raw where a program reads it, `printable` on a terminal."""
    print(printable(text) if sys.stdout and sys.stdout.isatty() else text, end="", flush=True)


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_error(error: BaseException) -> None:
    """Say what went wrong, once and on standard error."""
    note(f"hybrid-llm: {printable(str(error)) or type(error).__name__}")


def print_json(value: object) -> None:
    """Print *value*, of records and plain types, as one JSON document."""
    print(json.dumps(value, indent=2, default=_plain))


def record(value: object) -> dict[str, object]:
    """The fields of a frozen record, one level deep, for `print_json`."""
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is not a record")
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _plain(value: object) -> object:
    if is_dataclass(value):
        return record(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    return str(value)


def decision_record(decision: Decision) -> dict[str, object]:
    """A decision as `--json` shows it, with its trace."""
    return {
        "order": decision.order,
        "excluded": dict(decision.excluded),
        "policy": decision.policy,
        "digest": decision.digest,
        "rule": decision.rule,
        "because": decision.because,
        "tags": decision.tags,
        "trace": [{**record(entry), "values": dict(entry.values)} for entry in decision.trace],
    }


def generation_record(generation: Generation) -> dict[str, object]:
    """An answer as `--json` shows it."""
    shown = record(generation)
    shown["usage"] = {**record(generation.usage), "total_tokens": generation.usage.total_tokens}
    shown["decision"] = decision_record(generation.decision)
    return shown
