"""What pseudonyms cost: replacing them in a prompt and restoring them in a stream, beside the scan for personal data.

    python -m benchmarks pseudonyms [--json FILE]

The floor of restoring is `str.replace` for each pseudonym over the whole answer, once, at its end: it cannot stream and
accepts no other spelling. The floor of replacing is `str.replace` for each value; its peer is the scan for personal
data that comes before it. All are timed in turns in one run; medians.
"""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks._run import parsed, parser, with_json, write
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding, prepare
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.restore import Restorer

ENTRIES = (0, 10, 1000)
LINES = (4000, 16000, 64000)
ADDRESSES = 30_000
TOKENS = 16_384
SENTENCE = "The parcel went out on Monday, and {} was told; if it is not there by then, please call {} again. "
KINDS = ("email", "phone", "person", "payment_card", "ip_address")


@dataclass(frozen=True, slots=True)
class Case:
    """A session with so many values; a prompt of about 4 KB that names some of them, and an answer that does too."""

    table: PseudonymTable
    prompt: str
    findings: list[Finding]
    answer: str
    pieces: list[str]
    values: dict[str, str]


def case(entries: int) -> Case:
    """Every 100 characters of prompt and answer hold two values, where the session has any."""
    table = PseudonymTable(b"k" * 32)
    values = [f"user{i:04d}@mail{i % 7}.example.org" for i in range(entries)]
    names = table.replace_all(
        prepare(values), [[Finding(kind=KINDS[i % 5], start=0, end=len(v))] for i, v in enumerate(values)]
    )
    used = values[:40] or ["somebody", "a friend"]
    prompt = "".join(SENTENCE.format(used[i % len(used)], used[(i + 1) % len(used)]) for i in range(34))
    (answer,) = table.replace_all(prepare([prompt]), [[]])
    pieces = re.findall(r"\s?[a-z]+|[A-Z]{1,2}|\s?[^\sa-zA-Z]|\s", answer)
    assert "".join(pieces) == answer
    return Case(table, prompt, scan(prompt), answer, pieces, dict(zip(names, values, strict=True)))


def scan(text: str) -> list[Finding]:
    """What every detector finds: done for each prompt anyway."""
    (prepared,) = prepare([text])
    return [finding for detector in DETECTORS.values() for finding in detector.find_in(prepared)]


def streamed(this: Case, *, in_json: bool = False) -> str:
    """The answer, token by token."""
    one = Restorer(this.table, json=in_json)
    return "".join([*map(one.feed, this.pieces), one.finish()])


def passed(this: Case) -> str:
    """The least that a Python stage costs per token: one call."""
    return "".join(map(_same, this.pieces))


def _same(piece: str) -> str:
    return piece


def replaced(text: str, names: dict[str, str]) -> str:
    """`str.replace` for each, over the whole."""
    for old, new in names.items():
        text = text.replace(old, new)
    return text


def measure(subjects: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Median seconds of one call, subjects in turns."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(turns):
        for name, subject in subjects.items():
            start = time.perf_counter()
            subject()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def held(this: Case) -> tuple[float, int]:
    """How many characters are held back after a token: mean and most."""
    one = Restorer(this.table)
    lengths, came, gone = [], 0, 0
    known = {value: len(name) for name, value in this.values.items()}
    pattern = re.compile("|".join(map(re.escape, known)) or "(?!)")
    for piece in this.pieces:
        came += len(piece)
        out = one.feed(piece)
        gone += len(out) + sum(known[m[0]] - len(m[0]) for m in pattern.finditer(out))
        lengths.append(came - gone)
    return statistics.mean(lengths), max(lengths)


def figures(entries: int, turns: int) -> dict[str, float]:
    """Everything for a session of *entries* values, in microseconds per token or per KB."""
    this = case(entries)
    back = {value: name for name, value in this.values.items()}
    assert streamed(this) == this.prompt == replaced(this.answer, this.values), "all must restore alike"
    seconds = measure(
        {
            "restore, us a token": lambda: streamed(this),
            "restore in JSON, us a token": lambda: streamed(this, in_json=True),
            "  floor: one call a token": lambda: passed(this),
            "  floor: str.replace on the whole": lambda: replaced(this.answer, this.values),
            "replace, us a KB": lambda: this.table.replace_all(prepare([this.prompt]), [this.findings]),
            "  floor: str.replace, us a KB": lambda: replaced(this.prompt, back),
            "  peer: the detectors' scan, us a KB": lambda: scan(this.prompt),
        },
        turns,
    )
    kilobytes = len(this.prompt.encode()) / 1024
    found = {n: s * 1e6 / (kilobytes if "KB" in n else len(this.pieces)) for n, s in seconds.items()}
    mean, most = held(this)
    return {**found, "held back, characters (mean)": mean, "held back, characters (most)": float(most)}


def contacts(count: int) -> str:
    """*count* lines, each with an address and a number."""
    numbers = (f"+1 415 {200 + i // 10000:03d} {i % 10000:04d}" for i in range(count))
    return "\n".join(f"contact user{i:05d}@mail{i % 7}.example.org or {number}" for i, number in enumerate(numbers))


def addresses(count: int) -> str:
    """*count* addresses and nothing else."""
    return " ".join(f"user{i:05d}@mail{i % 7}.example.org" for i in range(count))


def tokens(count: int) -> str:
    """*count* lines with a secret of 36 letters and digits."""
    rng = random.Random(1)
    return "\n".join(f"token=ghp_{rng.getrandbits(128):032x}{i % 10000:04d}" for i in range(count))


def large(text: str) -> dict[str, float]:
    """A long *text*, all of whose values are new: milliseconds per KB."""
    findings, prepared = scan(text), prepare([text])
    seconds = measure(
        {
            "scan": lambda: scan(text),
            "replace": lambda: PseudonymTable().replace_all(prepared, [findings]),
            "  floor: casefold": text.casefold,
        },
        1,
    )
    return {name: found * 1e3 / (len(text) / 1024) for name, found in seconds.items()}


def main() -> None:
    """Time everything, and print one line per subject."""
    options = parsed(with_json(parser(__doc__)))
    sizes, turns = (ENTRIES[:2], 1) if options.smoke else (ENTRIES, 25)
    columns = {entries: figures(entries, turns) for entries in sizes}
    print(f"{'values in the session':40}" + "".join(f"{entries:>10,}" for entries in sizes))
    for name in columns[0]:
        print(f"{name:40}" + "".join(f"{columns[entries][name]:10.2f}" for entries in sizes))
    texts = {f"{count:,} contact lines": contacts(count) for count in LINES}
    texts |= {f"{ADDRESSES:,} addresses": addresses(ADDRESSES), "768 KB of token=": tokens(TOKENS)}
    if options.smoke:
        texts = {name: text[:4000] for name, text in texts.items()}
    long = {name: large(text) for name, text in texts.items()}
    print(f"\n{'ms a KB':24}" + "".join(f"{name.strip():>18}" for name in long[f"{LINES[0]:,} contact lines"]))
    for name, column in long.items():
        print(f"{name:24}" + "".join(f"{found:18.3f}" for found in column.values()))
    write(options.json, {**{str(entries): column for entries, column in columns.items()}, **long})


if __name__ == "__main__":
    main()
