"""Which shape of pseudonym real models keep: prompts of ten kinds of task, eight kinds of value, seven shapes.

    python -m benchmarks kept_pseudonyms --model FOLDER [--answers FILE] [--shots] [--only FILE ...]

FOLDER is a transformers folder, which the node's engine runs (greedy, at most 44 tokens an answer). Answers go to FILE,
where a run that was ended goes on. *restored* is what the recogniser of pseudonyms finds in the answer in another
spelling, and of other shapes what is equal but for case and separators; *mangled* is near. The other answers name
nothing: the control, the true value, shows how often a model leaves out what it was to name. Intervals are Wilson's,
95 %; *won, lost* compares prompt by prompt with the product's shape. A base model needs `--shots`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks._kept_prompts import CODES, KINDS, SHAPES, TODAY, Case, cases
from benchmarks._run import ROOT, parsed, parser, with_json, write
from hybrid_llm.core.request import Message, Request
from hybrid_llm.router.privacy.pseudonyms.notation import spellings

DEMONSTRATION = ROOT / "examples" / "models" / "hybrid-demo-node"
MAX_TOKENS = 44
SLOTS = 48
SHOTS = (
    ("Translate into Italian: The lamp costs 20 euros.", "La lampada costa 20 euro."),
    ("Write as a list: milk, bread and eggs.", "- milk\n- bread\n- eggs"),
    ("Convert to JSON: city Oslo, tickets 2.", '{"city": "Oslo", "tickets": 2}'),
)
OUTCOMES = ("verbatim", "restored", "mangled", "dropped")
Row = dict[str, Any]
"""One answer: the fields of its case, and `answer`."""


def answers(folder: Path, todo: list[Case], *, shots: bool) -> Iterator[tuple[Case, str]]:
    """Each case with the answer of the model in *folder*, as they are done."""
    from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
    from hybrid_llm.backends.node.engines.load import load_engine
    from hybrid_llm.backends.text import ChatTokenizer

    tokenizer = ChatTokenizer.load(folder)
    config = EngineConfig(model=folder, threads=1, max_slots=SLOTS, kv_tokens=SLOTS * 384, max_waiting=SLOTS)
    engine = load_engine(config)
    turns = [(role, text) for pair in SHOTS for role, text in zip(("user", "assistant"), pair, strict=True)]
    before = tuple(Message(role=role, content=text) for role, text in (turns if shots else ()))
    waiting, running = list(reversed(todo)), dict[str, tuple[Case, list[int]]]()
    while waiting or running:
        while waiting and len(running) < SLOTS:
            case = waiting.pop()
            ids = tokenizer.encode(Request(messages=(*before, Message(role="user", content=case.prompt))))
            name = f"{case.number} {case.shape}"
            running[name] = (case, [])
            engine.submit(
                EngineRequest(request_id=name, prompt_ids=tuple(ids), max_tokens=MAX_TOKENS, eos_ids=tokenizer.eos_ids)
            )
        for output in engine.step():
            case, answer = running[output.request_id]
            answer += output.token_ids
            if output.last:
                del running[output.request_id]
                yield case, tokenizer.tokenizer.decode(answer, skip_special_tokens=True)


def outcome(row: Row) -> str:
    """What became of the stand-in of *row* in its answer."""
    stand_in, answer, shape = row["stand_in"], row["answer"], row["shape"]
    if stand_in in answer:
        return "verbatim"
    if shape in CODES:
        return _of_code(stand_in.strip("[]"), answer, *CODES[shape])
    if _bare(stand_in) in _bare(answer):
        return "restored"
    return "mangled" if _distance(_bare(stand_in), _bare(answer)) <= len(_bare(stand_in)) // 4 else "dropped"


def _of_code(name: str, answer: str, alphabet: str, length: int) -> str:
    stem, _, code = name.partition("_")
    known = spellings((stem,), alphabet, length)
    names = {name} if code.isalpha() else {name, code}  # a code of letters only is never recognised alone
    if any(known.read(match)[1] in names for match in known.whole.finditer(answer)):
        return "restored"
    return "mangled" if _distance(code.lower(), _bare(answer)) <= 1 else "dropped"


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def _distance(short: str, text: str) -> int:
    """The least number of changed, missing or added characters with which *short* occurs in *text*."""
    row = [0] * (len(text) + 1)
    for number, letter in enumerate(short, 1):
        before, row = row, [number]
        for at, other in enumerate(text):
            row.append(min(before[at + 1] + 1, row[at] + 1, before[at] + (letter != other)))
    return min(row)


def wilson(share: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927), in percent."""
    z, p = 1.96, share / of
    middle, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return 100 * (middle - half) / (1 + z * z / of), 100 * (middle + half) / (1 + z * z / of)


def report(rows: Iterable[Row]) -> dict[str, object]:
    """Print a table of shapes, and one of kinds of value; return the counts."""
    found = {(row["number"], row["shape"]): (row["kind"], outcome(row)) for row in rows}
    counts = Counter((shape, what) for (_, shape), (_, what) in found.items())
    print(
        f"{'shape':16}{'prompts':>8}" + "".join(f"{what:>10}" for what in OUTCOMES) + f"{'the app gets':>22}  won, lost"
    )
    for shape in SHAPES:
        of = sum(counts[shape, what] for what in OUTCOMES)
        if of:
            good = counts[shape, "verbatim"] + counts[shape, "restored"]
            low, high = wilson(good, of)
            rest = f"{100 * good / of:8.0f} % ({low:.0f} to {high:.0f})"
            print(
                f"{shape:16}{of:8}"
                + "".join(f"{counts[shape, what]:10}" for what in OUTCOMES)
                + f"{rest:>22}  {_against(found, shape)}"
            )
    print(f"\n{'the app gets':16}" + "".join(f"{shape:>15}" for shape in SHAPES))
    for kind in KINDS:
        print(f"{kind:16}" + "".join(f"{_share(found, kind, shape):>15}" for shape in SHAPES))
    return {f"{shape} {what}": count for (shape, what), count in sorted(counts.items())}


def _is_good(found: dict[tuple[int, str], tuple[str, str]], number: int, shape: str) -> bool:
    return found[number, shape][1] in OUTCOMES[:2]


def _against(found: dict[tuple[int, str], tuple[str, str]], shape: str) -> str:
    both = [number for number, one in found if one == shape and (number, TODAY) in found]
    pairs = Counter((_is_good(found, number, shape), _is_good(found, number, TODAY)) for number in both)
    return f"{pairs[True, False]}, {pairs[False, True]}"


def _share(found: dict[tuple[int, str], tuple[str, str]], kind: str, shape: str) -> str:
    of = [number for (number, one), (which, _) in found.items() if one == shape and which == kind]
    return f"{sum(_is_good(found, number, shape) for number in of)} of {len(of)}"


def read(path: Path) -> list[Row]:
    """The answers in *path*; none if there is no such file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def main() -> None:
    """Ask the model what is not in the file of answers yet, and print the tables."""
    made = with_json(parser(__doc__))
    made.add_argument("--model", type=Path, default=DEMONSTRATION, help="a transformers folder")
    made.add_argument("--answers", type=Path, metavar="FILE", help="where answers are written, and found again")
    made.add_argument("--shots", action="store_true", help="show the model three tasks with answers before each prompt")
    made.add_argument(
        "--only", type=Path, metavar="FILE", nargs="+", help="print the tables of these answers, together"
    )
    options = parsed(made)
    if options.only:
        rows = [{**row, "number": (at, row["number"])} for at, path in enumerate(options.only) for row in read(path)]
        write(options.json, report(rows))
        return
    rows = read(options.answers) if options.answers else []
    done = {(row["number"], row["shape"]) for row in rows}
    todo = [case for case in cases() if (case.number, case.shape) not in done][: 7 if options.smoke else None]
    for case, answer in answers(options.model, todo, shots=options.shots):
        rows.append({**case.record(), "answer": answer})
        if options.answers:
            with options.answers.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    write(options.json, report(rows))


if __name__ == "__main__":
    main()
