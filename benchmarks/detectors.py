"""What the detectors find and what a scan costs, beside Presidio's patterns and one plain RE2 scan.

    python -m benchmarks detectors [--data FOLDER] [--only TABLE]

Recall and precision are measured on labelled texts of Presidio's research (`pii/synth_dataset_v2.json`), separately for
the half that the patterns were tuned on (texts whose index has an even SHA-256) and the other, held-out half. A
labelled span counts as found if a finding of its kind overlaps it. Speed is CPU time of this process, as the median
over pieces of text. Missing data is reported and left out.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import statistics
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from sysconfig import get_path

import re2

from benchmarks._run import parsed, parser
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding, scan

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
ALL = list(DETECTORS.values())
SIZES = (256, 1024, 16_384)
PIECES = 60
LABELS = {
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "CREDIT_CARD": "payment_card",
    "IBAN_CODE": "iban",
    "US_SSN": "us_ssn",
    "IP_ADDRESS": "ip_address",
    "US_DRIVER_LICENSE": "driver_license",
}
"""The labels that have a form. DATE_TIME is any date, of which `date_of_birth` looks for few: for precision only.
Names, places, addresses, titles, ages, postal codes and domains are out of the scope of patterns."""


@dataclass(slots=True)
class Score:
    """Counts of one kind: labelled spans, those overlapped, those covered whole, and findings that overlap none."""

    labelled: int = 0
    found: int = 0
    whole: int = 0
    false: int = 0

    @property
    def recall(self) -> float:
        """Share of the labelled spans that a finding of the kind overlaps."""
        return self.found / self.labelled if self.labelled else float("nan")

    @property
    def precision(self) -> float:
        """Share of the findings that overlap a labelled span of the kind."""
        return self.found / (self.found + self.false) if self.found + self.false else float("nan")


def is_tuning(index: int) -> bool:
    """Whether the labelled text *index* is in the half for tuning."""
    return int(hashlib.sha256(str(index).encode()).hexdigest(), 16) % 2 == 0


def judge(texts: Iterable[dict[str, object]], find: Callable[[str], list[Finding]]) -> dict[str, Score]:
    """Count, by kind, what *find* finds in labelled texts."""
    scores: dict[str, Score] = {}
    for entry in texts:
        spans = [
            (LABELS.get(s["entity_type"], s["entity_type"]), s["start_position"], s["end_position"])
            for s in entry["spans"]
        ]  # type: ignore[attr-defined]
        findings = find(str(entry["full_text"]))
        for kind, start, end in spans:
            if kind in LABELS.values():
                hits = [f for f in findings if f.kind == kind and f.start < end and start < f.end]
                score = scores.setdefault(kind, Score())
                score.labelled += 1
                score.found += bool(hits)
                score.whole += any(f.start <= start and f.end >= end for f in hits)
        for f in findings:
            own = "DATE_TIME" if f.kind == "date_of_birth" else f.kind
            score = scores.setdefault(f.kind, Score())
            is_true = any(kind == own and f.start < end and start < f.end for kind, start, end in spans)
            score.false += not is_true
            score.found += is_true and own == "DATE_TIME"
    return scores


def read_text(archive: Path, limit: int = 1 << 20) -> str:
    """The texts in *archive*, its own notes left out."""
    with zipfile.ZipFile(archive) as packed:
        names = [n for n in sorted(packed.namelist()) if not n.endswith("/") and "README" not in n]
        return "\n".join(packed.read(name).decode("latin-1") for name in names)[:limit]


def program_text(limit: int = 1 << 20) -> str:
    """Python's own library, the modules at its top."""
    paths = sorted(Path(get_path("stdlib")).glob("*.py"))
    return "\n".join(path.read_text("utf-8", errors="replace") for path in paths)[:limit]


def corpora(data: Path) -> Iterator[tuple[str, str]]:
    """Name and text of what is scanned for speed."""
    rng = random.Random(5)
    prose = data / "text" / "state_union.zip"
    if prose.exists():
        yield "English prose", read_text(prose, 1 << 19)
    yield (
        "Chinese prose",
        "我们今天在北京开会，讨论了第三季度的预算。会议于下午3点开始，共有12人参加；请在周五之前把报告发给我，谢谢！"
        * 1500,
    )
    yield "program text", program_text(1 << 19)
    rows = (
        {"id": rng.randrange(10**6), "name": f"item {i}", "price": i / 7, "at": "2024-05-06T12:00:00Z"}
        for i in range(4000)
    )
    yield "JSON", "\n".join(map(json.dumps, rows))
    yield (
        "digits",
        "\n".join(",".join(str(rng.randrange(10 ** rng.randint(1, 12))) for _ in range(8)) for _ in range(6000)),
    )
    yield "base64 of noise", base64.b64encode(rng.randbytes(1 << 18)).decode()
    labelled = data / "pii" / "synth_dataset_v2.json"
    if labelled.exists():
        entries = json.loads(labelled.read_text("utf-8"))
        yield "labelled texts", "\n".join(str(entry["full_text"]) for entry in entries)
    people = (
        {"email": f"u{i}@example.com", "phone": f"+1 212 555 {i % 9999:04d}", "note": "你好\n世界"} for i in range(4000)
    )
    yield "JSON, dense", "\n".join(map(json.dumps, people))


def pieces(text: str, size: int) -> list[str]:
    """Up to `PIECES` pieces of *size* characters from all over *text*."""
    step = max(size, len(text) // PIECES)
    return [text[i : i + size] for i in range(0, len(text) - size + 1, step)][:PIECES]


def cost(find: Callable[[str], object], parts: list[str], *, smoke: bool = False) -> float:
    """Median CPU time of *find*, ms for each KB of UTF-8; the best of three looks at every piece."""
    for part in parts[: 1 if smoke else 5]:
        find(part)
    chosen, looks = (parts[:2], 1) if smoke else (parts, 3)
    return statistics.median(min(_once(find, part) for _ in range(looks)) for part in chosen)


def _once(find: Callable[[str], object], part: str) -> float:
    size = len(part.encode("utf-8", errors="replace")) / 1024
    began = time.process_time_ns()
    find(part)
    return (time.process_time_ns() - began) / 1e6 / size


def presidio() -> Callable[[str], list[Finding]] | None:
    """Presidio's English recognizers that need no model, with scores from 0.4 on; None where it is not installed.

    Context words, which raise a score, need a model and are left out.
    """
    if find_spec("presidio_analyzer") is None:
        return None
    from presidio_analyzer import RecognizerRegistry

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    recognizers = [r for r in registry.recognizers if "Spacy" not in type(r).__name__]

    def find(text: str) -> list[Finding]:
        found = [result for r in recognizers for result in r.analyze(text, r.supported_entities, None)]
        return [
            Finding(kind=LABELS.get(result.entity_type, result.entity_type), start=result.start, end=result.end)
            for result in found
            if result.score >= 0.4
        ]

    return find


def speed(data: Path, limit: int, *, smoke: bool = False) -> None:
    """Print ms per KB, by text and size."""
    floor = re2.compile(r"[0-9]{40}@").search
    peer = presidio()
    if peer is None:
        print("Presidio is not installed and left out: pip install presidio-analyzer")
    head = " | ".join(
        ["text", *(f"{size} characters" for size in SIZES), "all at once", "one RE2 scan", "Presidio, 1024"]
    )
    print(f"\n| {head} |\n|---|{'---:|' * 6}")
    for name, whole in corpora(data):
        text = whole[:limit]
        figures = [cost(lambda part: scan(part, ALL), pieces(text, size), smoke=smoke) for size in SIZES]
        figures.append(min(_once(lambda part: scan(part, ALL), text) for _ in range(2)))
        figures.append(cost(floor, pieces(text, 1024), smoke=smoke))
        row = [f"{figure:.3f}" for figure in figures]
        row.append(f"{cost(peer, pieces(text, 1024)[:10], smoke=smoke):.1f}" if peer is not None else "-")
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def growth(limit: int) -> None:
    """Show that the cost is linear: a megabyte beside a sixteenth of it, for the worst kinds of text."""
    worst = {
        "endless email": "a." * (1 << 19),
        "endless digits": "1 " * (1 << 19),
        "endless escapes": "%25" * (1 << 18),
        "endless number words": "one " * (1 << 18),
        "endless assignments": "token=" * (1 << 17),
        "endless base64": "QUJD" * (1 << 18),
    }
    print("\n| text of about a megabyte | ms per KB | of a sixteenth of it |\n|---|---:|---:|")
    for name, endless in worst.items():
        text = endless[:limit]
        whole, part = (min(_once(lambda t: scan(t, ALL), t) for _ in range(2)) for t in (text, text[: len(text) // 16]))
        print(f"| {name} | {whole:.3f} | {part:.3f} |", flush=True)


def quality(data: Path, limit: int | None) -> None:
    """Print recall and precision of both halves of the labelled texts."""
    path = data / "pii" / "synth_dataset_v2.json"
    if not path.exists():
        print(f"the labelled texts are not at {path}: recall and precision are left out")
        return
    entries = json.loads(path.read_text("utf-8"))[:limit]
    halves = [[e for i, e in enumerate(entries) if is_tuning(i) is tuning] for tuning in (True, False)]
    tuned, held = (judge(half, lambda text: scan(text, ALL)) for half in halves)
    print(f"\n{len(halves[0])} texts were used for tuning, {len(halves[1])} were held out.\n")
    peer = presidio()
    theirs = judge(halves[1], peer) if peer is not None else {}
    heads = [
        f"{half}: {column}"
        for half in ("tuned on", "held out")
        for column in ("labelled", "recall", "whole", "precision")
    ]
    heads += ["Presidio, held out: recall", "precision"] if theirs else []
    print(f"| detector | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for kind in (*LABELS.values(), *sorted({*tuned, *held} - {*LABELS.values()})):
        cells = [cell for score in (tuned.get(kind, Score()), held.get(kind, Score())) for cell in _cells(score)]
        cells += [_cells(theirs.get(kind, Score()))[i] for i in (1, 3)] if theirs else []
        print(f"| `{kind}` | {' | '.join(cells)} |")


def _cells(score: Score) -> list[str]:
    whole = score.whole / score.labelled if score.labelled else float("nan")
    shares = (score.recall, whole, score.precision)
    return [str(score.labelled), *("-" if math.isnan(share) else f"{share:.3f}" for share in shares)]


def false_alarms(data: Path, limit: int) -> None:
    """Print findings in text with little to find; the last two were not used for tuning."""
    print("\n| text without much to find | KB | findings per 100 KB | of which |\n|---|---:|---:|---|")
    for name in ("state_union", "sentence_polarity", "inaugural", "shakespeare"):
        path = data / "text" / f"{name}.zip"
        if path.exists():
            _tell(name, read_text(path, limit))
    _tell("Python's library", program_text(limit))


def _tell(name: str, text: str) -> None:
    counts = Counter(finding.kind for finding in scan(text, ALL))
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.most_common()) or "-"
    print(f"| {name} | {len(text) // 1024} | {sum(counts.values()) * 102_400 / len(text):.2f} | {kinds} |", flush=True)


def main() -> None:
    """Print all tables."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=DATA, help="the folder with pii/ and text/")
    made.add_argument("--only", choices=["quality", "alarms", "speed", "growth"], help="one of the tables")
    options = parsed(made)
    limit = SIZES[-1] if options.smoke else 1 << 20
    tables = {
        "quality": lambda: quality(options.data, 10 if options.smoke else None),
        "alarms": lambda: false_alarms(options.data, limit if options.smoke else 4 * limit),
        "speed": lambda: speed(options.data, limit, smoke=options.smoke),
        "growth": lambda: growth(limit),
    }
    for name, table in tables.items():
        if options.only in {None, name}:
            table()


if __name__ == "__main__":
    main()
