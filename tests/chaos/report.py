"""What came of the requests under each fault, as a table and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from tests.chaos.traffic import Outcome

LATE_S = 0.05
FREED_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault. Times in ms, *back_s* in seconds from the end of the fault to the first answer of a node."""

    fault: str
    requests: int
    answered: int
    continued: int
    left: int
    errors: Mapping[str, int]
    avoidable: int
    """Typed errors of requests that something unharmed could have answered, and that no deadline was meant to end."""
    lost: int
    wrong: int
    late: int
    over_p99_ms: float
    """How long after its deadline the hundredth part of the requests ended; negative: before."""
    freed_p99_ms: float
    """From the caller's leaving to the free slot."""
    slow_to_free: int
    back_s: float | None = None
    note: str = ""
    examples: Sequence[str] = field(default=())

    @property
    def bad(self) -> bool:
        return bool(self.lost or self.wrong or self.avoidable)


def row(
    fault: str,
    outcomes: Sequence[Outcome],
    freed: Mapping[str, float],
    back_s: float | None,
    note: str,
    is_meant: Callable[[Outcome], bool] = lambda _: True,
) -> Row:
    """Judge *outcomes*; *is_meant* says whether the typed error of one had to be."""
    whole = [o for o in outcomes if o.whole]
    errors = Counter(type(o.error).__name__ for o in outcomes if o.error is not None and not o.lost)
    over = sorted(o.over_s for o in outcomes if o.ended)
    waits = sorted(freed[o.case.prompt] - o.left for o in outcomes if o.left and o.case.prompt in freed)
    avoidable = [o for o in outcomes if o.error is not None and not o.lost and not is_meant(o)]
    bad = [o for o in outcomes if o.lost or o.wrong] + avoidable
    return Row(
        fault=fault,
        requests=len(outcomes),
        answered=len(whole),
        continued=sum(bool(o.generation.continuations) for o in whole if o.generation),
        left=sum(bool(o.left) for o in outcomes),
        errors=dict(errors.most_common()),
        avoidable=len(avoidable),
        lost=sum(o.lost for o in outcomes),
        wrong=sum(o.wrong for o in outcomes),
        late=sum(o.over_s > LATE_S for o in outcomes if o.ended),
        over_p99_ms=round(1e3 * _quantile(over, 0.99), 1),
        freed_p99_ms=round(1e3 * _quantile(waits, 0.99), 1),
        slow_to_free=sum(wait > FREED_S for wait in waits),
        back_s=None if back_s is None else round(back_s, 2),
        note=note,
        examples=tuple(_tell(o) for o in bad[:5]),
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _tell(outcome: Outcome) -> str:
    what = "lost" if outcome.lost else "wrong" if outcome.wrong else "avoidable"
    joins = outcome.generation.continuations if outcome.generation else ()
    took = f"{outcome.ended - outcome.began:.2f} s" if outcome.ended else "never ended"
    return f"{what}: {outcome.case} -> {outcome.error!r}, {took}, continuations {joins}, text {outcome.text[-80:]!r}"


_HEAD = (
    "fault", "requests", "answered", "of them continued", "cancelled", "typed errors", "avoidable", "lost", "wrong",
    "late", "freed ms", "recovery s",
)  # fmt: skip


def head() -> str:
    """The first lines of a table in Markdown."""
    return f"| {' | '.join(_HEAD)} |\n{'|---' * len(_HEAD)}|"


def line(row: Row) -> str:
    """One line of the table."""
    return _cells(
        row.fault, row.requests, row.answered, row.continued, row.left, sum(row.errors.values()), row.avoidable,
        row.lost, row.wrong, row.late, round(row.freed_p99_ms) or "-", "-" if row.back_s is None else row.back_s,
    )  # fmt: skip


def total(rows: Sequence[Row]) -> str:
    """The last line: the sums, and below it which errors there were."""
    names = ("requests", "answered", "continued", "left", "avoidable", "lost", "wrong", "late")
    sums = {name: sum(getattr(row, name) for row in rows) for name in names}
    errors = sum((Counter(row.errors) for row in rows), Counter[str]())
    kinds = ", ".join(f"{name} {count:,}" for name, count in errors.most_common())
    counts = [f"{sums[name]:,}" for name in names]
    counts.insert(4, f"{errors.total():,}")
    return f"{_cells('**all**', *counts, '', '')}\n\ntyped errors: {kinds or 'none'}"


def _cells(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    return [asdict(row) for row in rows]
