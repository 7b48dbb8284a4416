"""What `hybrid-llm doctor` reports: findings, each problem with a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result; *remedy* says what to do, and of an `ok` what would complete it; else it is empty."""

    check: str
    status: Status
    message: str
    remedy: str = ""


def ok(check: str, message: str, remedy: str = "") -> Finding:
    """A finding without a problem."""
    return Finding(check=check, status=Status.OK, message=message, remedy=remedy)


def warning(check: str, message: str, remedy: str) -> Finding:
    """A finding of something that works now but may fail later."""
    return Finding(check=check, status=Status.WARNING, message=message, remedy=remedy)


def fault(check: str, message: str, remedy: str) -> Finding:
    """A finding of something that does not work."""
    return Finding(check=check, status=Status.FAULT, message=message, remedy=remedy)
