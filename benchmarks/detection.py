"""What leaves of values with their word beside them, and what is found where nothing is: recall and false finds.

    python -m benchmarks detection [--only recall|false] [--kind NAME] [--show N]

Recall: own cases of 13 kinds, 300 a kind and half: to tune on in ten layouts of each module (prose, chat, JSON, CSV,
forms, logs, XML, YAML, Markdown, a question in the turn before), held out in twenty-one. The request passes the privacy
guard under a policy that pseudonymises what the kind's own detectors find; a find counts only if nothing of the value
is in what would leave. Values are drawn after the formats of their issuers. One half is there to tune on; `--show`
prints what it misses. The held-out half, `_heldout`, has other sentences, labels, layouts and values, and is never
shown.

False finds: source trees that pip fetches, generated logs and data, and prose. `_plausible` judges each find by rules
of its own, which look at the text around it; the trees, too, have a half to tune on, whose false finds `--show` prints.
"""

from __future__ import annotations

import random
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks import _heldout, _tuning, _tuning_other, _tuning_third
from benchmarks._cases import KINDS, Case, Kind, cases
from benchmarks._plausible import is_plausible
from benchmarks._run import announce, parser, with_json, write
from benchmarks._trees import File, files
from benchmarks.detectors import DATA
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.policies import Policy, parse_policy
from hybrid_llm.router.privacy.detectors import DETECTORS, scan
from hybrid_llm.router.privacy.guard import PrivacyGuard

_PSEUDONYM = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*_[A-Z2-7]{5,}")
COUNT = 300
_TO_TUNE_ON = (_tuning, _tuning_other, _tuning_third)


@cache
def policy(detectors: tuple[str, ...]) -> Policy:
    """A policy that lets requests go with pseudonyms for what *detectors* find."""
    text = f"""\
version: 1
name: measured
tags:
  value: {{allow: [edge, cloud], to_cloud: pseudonymise, detect: [{", ".join(detectors)}]}}
rules: [{{prefer: [cloud, edge]}}]
"""
    return parse_policy(text, backends={"edge": Location.EDGE, "cloud": Location.CLOUD})


def outcome(case: Case, detectors: tuple[str, ...]) -> str:
    """`replaced`: nothing of the value leaves; `kept`: the request stays; `part` or `whole`: so much of it leaves."""
    guard = PrivacyGuard()
    messages = tuple(Message(role=role, content=text) for role, text in case.turns)  # type: ignore[arg-type]
    assessment = guard.assess(Request(messages=messages), policy(detectors))
    try:
        if Location.CLOUD not in assessment.allowed:
            return "kept"
        sent = assessment.request_for(Location.CLOUD).messages[case.place].content
        return left(case.turns[case.place][1], sent, case.start, case.end)
    finally:
        guard.release(assessment)
        guard.close()


def left(text: str, sent: str, start: int, end: int) -> str:
    """How much of the characters *start* to *end* of *text* is still in *sent*, which has pseudonyms for some spans."""
    position, gone = 0, []
    *pieces, last = _PSEUDONYM.split(sent)
    for place, piece in enumerate((*pieces, last)):
        is_last = place == len(pieces) > 0
        found = text.rfind(piece, position) if is_last else text.find(piece, position) if piece else position
        if found < 0:
            return "whole" if text[start:end] in sent else "part"
        gone.append((position, found))
        position = found + len(piece)
    gone.append((position, len(text)))
    covered = sum(max(0, min(end, b) - max(start, a)) for a, b in gone)
    return "replaced" if covered == end - start else "part" if covered else "whole"


def recall(kinds: Iterable[Kind], count: int, show: int) -> dict[str, object]:
    """Print recall by kind, of both halves; returns the figures."""
    figures: dict[str, object] = {}
    print(f"\n{count} cases of each kind and half\n")
    heads = ("goal", "tuning", "any detector", "held out", "any detector", "left in part", "stays, held out")
    print(f"| kind | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    missed: list[str] = []
    layouts: Counter[tuple[str, str]] = Counter()
    for kind in kinds:
        tuned, misses = _half(kind, count, tuning=True, layouts=layouts)
        held, _ = _half(kind, count, tuning=False, layouts=layouts)
        missed += misses[:show]
        cells = [f"{kind.goal:.2f}" if kind.goal else "-", *tuned[:2], *held]
        print(f"| {kind.name} | {' | '.join(cells)} |", flush=True)
        figures[kind.name] = dict(zip(heads[1:], cells[1:], strict=True))
    _print_layouts(layouts)
    print(*missed, sep="\n")
    return figures


def _half(kind: Kind, count: int, *, tuning: bool, layouts: Counter[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The cells of one half, and the texts of its misses."""
    half = "tuning" if tuning else "held out"
    drawn = _tuning_cases(kind, count) if tuning else _held_out_cases(kind, count)
    if not drawn:
        return ["-"] * 4, []
    seen: Counter[str] = Counter()
    covered, misses = 0, []
    for case in drawn:
        result = outcome(case, kind.detectors)
        seen[result] += 1
        is_safe = result in {"replaced", "kept"}
        layouts[half, case.layout] += is_safe
        layouts[half + " all", case.layout] += 1
        covered += is_safe or outcome(case, tuple(DETECTORS)) in {"replaced", "kept"}
        if not is_safe and tuning:
            value = case.turns[case.place][1][case.start : case.end]
            misses.append(f"--- {kind.name}, {case.layout}, leaves {result}: {value!r} in\n{_dialogue(case)}")
    shares = [f"{(seen['replaced'] + seen['kept']) / count:.3f}", f"{covered / count:.3f}"]
    return [*shares, str(seen["part"]), str(seen["kept"])], misses


def _tuning_cases(kind: Kind, count: int) -> list[Case]:
    """As many of them of one module to tune on as of another."""
    parts = len(_TO_TUNE_ON)
    return [
        case
        for place, module in enumerate(_TO_TUNE_ON)
        for case in cases(
            kind, module.WORDS[kind.name], module.LAYOUTS, count // parts + (place < count % parts), "tuning"
        )
    ]


def _held_out_cases(kind: Kind, count: int) -> list[Case]:
    """Those of `_heldout`, which nobody who tunes a detector reads; none of a kind that it has no words for."""
    words = _heldout.WORDS.get(kind.name)
    if words is None or not _heldout.LAYOUTS:
        return []
    draw = _heldout.VALUES.get(kind.name)
    return list(cases(kind, words, _heldout.LAYOUTS, count, "held out", draw))


def _dialogue(case: Case) -> str:
    return "\n".join(f"{role}: {text}" for role, text in case.turns)


def _print_layouts(layouts: Counter[tuple[str, str]]) -> None:
    print("\n| layout | tuning | held out, its own form |\n|---|---:|---:|")
    for (_, name), total in [item for item in layouts.items() if item[0][0] == "tuning all"]:
        held = layouts["held out all", name]
        cell = f"{layouts['held out', name] / held:.3f}" if held else "-"
        print(f"| {name} | {layouts['tuning', name] / total:.3f} | {cell} |")


@dataclass(slots=True)
class Tally:
    """What was found in the files of one group and half."""

    files: int = 0
    lines: int = 0
    kilobytes: float = 0.0
    lines_with: Counter[str] = field(default_factory=Counter)
    """Lines with a false find, by kind."""
    files_with: Counter[str] = field(default_factory=Counter)
    plausible: Counter[str] = field(default_factory=Counter)
    """Finds that are values, by kind."""

    def add(self, file: File) -> dict[str, list[int]]:
        """Scan *file*; returns the starts of its false finds by kind."""
        self.files += 1
        self.lines += file.text.count("\n") + 1
        self.kilobytes += len(file.text) / 1024
        wrong: dict[str, list[int]] = {}
        for found in scan(file.text, DETECTORS.values()):
            if is_plausible(found.kind, file.text, found.start, found.end):
                self.plausible[found.kind] += 1
            else:
                wrong.setdefault(found.kind, []).append(found.start)
        for kind, starts in wrong.items():
            self.lines_with[kind] += len({file.text.count("\n", 0, start) for start in starts})
            self.files_with[kind] += 1
        return wrong


def false_finds(texts: Iterable[File], show: int, only: str) -> dict[str, object]:
    """Print false finds by group and kind; returns the figures."""
    tallies: dict[tuple[bool, str], Tally] = {}
    shown: dict[str, list[str]] = {}
    for file in texts:
        tally = tallies.setdefault((file.tuning, file.group), Tally())
        wrong = tally.add(file)
        for kind, starts in wrong.items() if file.tuning else ():
            shown.setdefault(kind, []).extend(f"{kind:15} {file.name}: {_line(file.text, start)}" for start in starts)
    figures = {f"{'tuning' if tuning else 'held out'}, {group}": t for (tuning, group), t in tallies.items()}
    for half in ("tuning", "held out"):
        trees = [t for name, t in figures.items() if name.startswith(half) and "generated" not in name]
        figures[f"{half}, trees and prose"] = _sum(trees)
    _print_tallies(figures)
    rng = random.Random(1)
    for kind, lines in shown.items():
        if only in kind:
            print(*rng.sample(lines, min(show, len(lines))), sep="\n", end="\n" if show else "")
    names = ("files", "lines", "lines_with", "files_with", "plausible")
    return {half: {name: getattr(tally, name) for name in names} for half, tally in figures.items()}


def _sum(tallies: list[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        for name in ("files", "lines", "kilobytes", "lines_with", "files_with", "plausible"):
            setattr(total, name, getattr(total, name) + getattr(tally, name))
    return total


def _print_tallies(figures: dict[str, Tally]) -> None:
    print(
        "\nFalse finds: lines with one in a million lines, files with one in 1,000 files; and finds that are values\n"
    )
    print("| text | files | lines | kind | false: lines | in 1,000,000 | false: files | in 1,000 | values |")
    print(f"|---|---:|---:|---|{'---:|' * 5}")
    for name, t in figures.items():
        for kind in [
            kind for kind in DETECTORS if t.lines_with[kind] or (name.endswith("prose") and t.plausible[kind])
        ]:
            lines, held = t.lines_with[kind], t.files_with[kind]
            cells = (lines, f"{1e6 * lines / t.lines:.0f}", held, f"{1e3 * held / t.files:.2f}", t.plausible[kind])
            print(f"| {name} | {t.files} | {t.lines} | `{kind}` | {' | '.join(map(str, cells))} |")
        if not t.lines_with:
            print(f"| {name} | {t.files} | {t.lines} | - | 0 | 0 | 0 | 0 | {t.plausible.total()} |")


def _line(text: str, start: int) -> str:
    """The line around *start*, cut; the find begins after the mark."""
    first = max(text.rfind("\n", 0, start) + 1, start - 50)
    last = text.find("\n", start)
    return f"{text[first:start]}\u2192{text[start : min(start + 70, last if last >= 0 else len(text))]}".strip()


def main() -> int:
    """Print the tables that the options ask for."""
    made = with_json(parser(__doc__))
    made.add_argument("--only", choices=["recall", "false"], help="one of the tables")
    made.add_argument("--kind", default="", help="only kinds whose name contains this")
    made.add_argument("--data", type=Path, default=DATA, help="the folder with text/")
    made.add_argument("--count", type=int, default=COUNT, help=f"cases of each kind and half (default: {COUNT})")
    made.add_argument("--show", type=int, default=0, metavar="N", help="print N misses and false finds of each kind")
    options = made.parse_args()
    announce(options)
    figures: dict[str, object] = {}
    if options.only != "false":
        chosen = [kind for kind in KINDS if options.kind.lower() in kind.name.lower()]
        figures["recall"] = recall(chosen, 20 if options.smoke else options.count, options.show)
    if options.only != "recall":
        figures["false finds"] = false_finds(files(options.data, smoke=options.smoke), options.show, options.kind)
    write(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
