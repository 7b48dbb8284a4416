"""What a check of `hybrid-llm doctor` reports, and what it may look at. The checks themselves are elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_llm.core.errors import HybridLLMError

if TYPE_CHECKING:
    from hybrid_llm.backends.grpc import GrpcSpec
    from hybrid_llm.backends.wire.certificates import TLSFiles
    from hybrid_llm.router.config import Config


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. *remedy* says what to do; it is empty where all is well."""

    check: str
    status: Status
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What there is to look at: a configuration, certificates that were named, nodes to call."""

    config: Config | None = None
    pairs: Mapping[str, TLSFiles] = field(default_factory=dict)
    """Name -> files of every certificate in the folder that was given."""
    clouds: tuple[GrpcSpec, ...] = ()
    """The nodes of the configuration, and the one that was given."""
    folder: Path | None = None
    """Of `--tls`."""


Check = Callable[[Setup], Iterator[Finding]]


def fine(check: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, status=Status.OK, message=message)


def warning(check: str, message: str, remedy: str) -> Finding:
    """Return a finding that works now and may not for long."""
    return Finding(check=check, status=Status.WARNING, message=message, remedy=remedy)


def fault(check: str, message: str, remedy: str) -> Finding:
    """Return a finding that does not work."""
    return Finding(check=check, status=Status.FAULT, message=message, remedy=remedy)


def run_checks(checks: Mapping[str, Check], setup: Setup) -> Iterator[Finding]:
    """Run *checks* in order; one that breaks is a finding itself, and the others go on."""
    for name, check in checks.items():
        try:
            yield from check(setup)
        except HybridLLMError as error:
            yield fault(name, str(error), "do what the message says, then run `hybrid-llm doctor` again")
        except ImportError as error:
            yield fault(name, f"{error.name} cannot be imported: {error}", "pip install --upgrade hybrid-llm")
        except Exception as error:  # noqa: BLE001  # what is tested here may be broken in any way
            yield fault(name, f"the check broke off with {type(error).__name__}: {error}", "install hybrid-llm anew")
