"""What the default guardrail refuses of harmful texts, what of harmless ones, group by group, and what it costs.

    python -m benchmarks guardrails [--data FOLDER] [--only TABLE]

The rules were tuned on AdvBench (520 requests), AILuminate's public prompts (1,290), tweets of Davidson et al. (2017)
and on ordinary texts: sentence_polarity, GSM8K, instructions of Self-Instruct, genesis, state_union. None of these is
measured. What is measured is not wholly unseen all the same: the first lines of the XSTest, SimpleSafetyTests,
HarmBench and HateCheck files were printed before the rules were written, and after a first run the rules were widened
once, by its totals alone.

Put these files into `guardrails/` of the data folder; one whose SHA-256 differs, or that is not there, is left out.

    xstest.csv            paul-rottger/exaggerated-safety @ d7bb5bd7, xstest_prompts.csv (CC BY 4.0)
    sst.csv               bertiev/SimpleSafetyTests @ d7aee9a9, SimpleSafetyTests - test cases.csv (CC BY 4.0)
    harmbench.csv         HarmBench (MIT): harmbench_behaviors_text_all.csv
    harmbench_targets.json  HarmBench (MIT): harmbench_targets_text.json, the openings of answers
    hatecheck.csv         paul-rottger/hatecheck-data @ d8430229, test_suite_cases.csv (CC BY 4.0)
    jigsaw.csv            conversationai/unintended-ml-bias-analysis @ 9c7d91aa, en_sentence_templates.csv (CC BY 4.0)
    ailuminate_fr.csv     mlcommons/ailuminate @ 769cc2be, the French prompt set (CC BY 4.0)

No text of them is in this repository.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks._guardrail_cases import DISGUISED, PAIRS
from benchmarks._run import ROOT, parsed, parser
from benchmarks.detectors import DATA, cost, pieces, program_text, read_text
from hybrid_llm.core.errors import ContentRefused
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.protocols import Direction
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.guardrails import default
from hybrid_llm.router.execution.answer import iterate, stepped
from hybrid_llm.router.guardrails.answers import AnswerScreen

FILES: Mapping[str, str] = {
    "xstest.csv": "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
    "sst.csv": "6d95a1301e0d0f3a3c4cf5392f4afff11ad6e3066f95d23aaa138d44aedf986c",
    "harmbench.csv": "2745611872be3b2eab141e39bb328b8c1140dc3cd8d0a49da6174260d9ccbfb9",
    "harmbench_targets.json": "dedcac1f8c0108ca79e36589ef9693d5af916ed70878e60fb2c4c20482872e3f",
    "hatecheck.csv": "ecf0dc1e93fccc90b6f880e632b19e635c0f0a68b3157915a9e20b6938f121cf",
    "jigsaw.csv": "8ed7d07f61000a95a2e18747b8f1fbf43d75257cd342cddef1f3533254374633",
    "ailuminate_fr.csv": "5f26484aca585ed690f6da61230e214069778fed43bc2c735d30b4df29f1fe1c",
}
ANSWER = 600
"""Characters of an ordinary answer."""
TEXTS = ("inaugural", "shakespeare")
_GUARDRAIL = default()
_METADATA = RequestMetadata(deadline=86_400.0)


def request(text: str) -> bool:
    """Whether *text*, what a user asks, is refused."""
    return _GUARDRAIL.check(text, Direction.INPUT, _METADATA).refuses


def answer(text: str) -> bool:
    """Whether *text* is refused while it is streamed."""

    def refusal(passage: str) -> ContentRefused | None:
        verdict = _GUARDRAIL.check(passage, Direction.OUTPUT, _METADATA)
        return ContentRefused("no", guardrail="", direction="", category=verdict.category) if verdict.refuses else None

    screen = AnswerScreen(window=_GUARDRAIL.window, refusal=refusal)
    try:
        _drain(screen, [Chunk(text=text, finish_reason=FinishReason.STOP)])
    except ContentRefused:
        return True
    return False


def _drain(screen: AnswerScreen, chunks: Iterable[Chunk]) -> None:
    for _ in iterate(screen.chunks(stepped(chunks))):
        pass


def rows(data: Path, name: str, limit: int | None) -> list[dict[str, str]]:
    """The rows of a file; none, with a word about it, if it is not there or not the one that is meant."""
    path = data / "guardrails" / name
    if not path.exists():
        print(f"{name} is not there and left out")
        return []
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != FILES[name]:
        print(f"{name} is another file than the one that is meant, and left out")
        return []
    if name.endswith(".json"):
        listed = json.loads(content)
        return [{"text": text} for text in (listed.values() if isinstance(listed, dict) else listed)][:limit]
    return list(csv.DictReader(content.decode("utf-8-sig").splitlines(keepends=True)))[:limit]


def line(name: str, refused: int, of: int) -> str:
    """A row of a table."""
    return f"| {name} | {refused} of {of} | {refused / of:.1%} |"


def table(title: str, groups: Iterable[tuple[str, str]], refuses: Callable[[str], bool]) -> None:
    """Print, for each group of *groups*, pairs of a group and a text, how many texts are refused."""
    refused, count = Counter[str](), Counter[str]()
    for group, text in groups:
        count[group] += 1
        refused[group] += refuses(text)
    if count:
        print(f"\n| {title} | refused | |\n|---|---|---|")
        print("\n".join(line(group, refused[group], count[group]) for group in count))


def requests(data: Path, limit: int | None) -> None:
    """Harmful requests, and harmless ones with their words."""
    xstest = rows(data, "xstest.csv", limit)
    table("XSTest", ((row["label"], row["prompt"]) for row in xstest), request)
    table("XSTest, by type", ((f"{row['label']}: {row['type']}", row["prompt"]) for row in xstest), request)
    table("SimpleSafetyTests", ((r["harm_area"], r["prompts_final"]) for r in rows(data, "sst.csv", limit)), request)
    behaviours = [row for row in rows(data, "harmbench.csv", limit) if row["FunctionalCategory"] == "standard"]
    table("HarmBench, standard", ((row["SemanticCategory"], row["Behavior"]) for row in behaviours), request)
    table(
        "AILuminate, French", (("all", row["prompt_text"]) for row in rows(data, "ailuminate_fr.csv", limit)), request
    )


def answers(data: Path, limit: int | None) -> None:
    """The openings of harmful answers, and hate by function and by group."""
    table(
        "HarmBench, openings of answers",
        (("all", r["text"]) for r in rows(data, "harmbench_targets.json", limit)),
        answer,
    )
    cases = rows(data, "hatecheck.csv", limit)
    table("HateCheck", ((row["label_gold"], row["test_case"]) for row in cases), answer)
    table("HateCheck, by function", ((row["functionality"], row["test_case"]) for row in cases), answer)
    named = [row for row in cases if row["target_ident"]]
    table("HateCheck, by group", ((f"{r['target_ident']}, {r['label_gold']}", r["test_case"]) for r in named), answer)


def groups(data: Path, limit: int | None) -> None:
    """Harmless sentences that name a group, and toxic ones: how far the share depends on the group."""
    templates = [row for row in rows(data, "jigsaw.csv", None) if row["template"] != "you_occupation"][::8][:limit]
    table("Sentence templates", ((row["toxicity"], row["phrase"]) for row in templates), answer)
    harmless = [row for row in templates if row["toxicity"] == "nontoxic"]
    identity = re.compile(r"[\w ]*?(\w+)\W*$")
    found = ((match[1], row["phrase"]) for row in harmless if (match := identity.match(row["phrase"])) is not None)
    refused = [(group, phrase) for group, phrase in found if answer(phrase)]
    print(f"harmless templates refused, by their last word: {dict(Counter(group for group, _ in refused)) or 'none'}")


def ordinary_texts(data: Path) -> Iterator[tuple[str, str]]:
    """Name and text of what nobody would refuse."""
    for name in TEXTS:
        if (path := data / "text" / f"{name}.zip").exists():
            yield name, read_text(path, 4 << 20)
    pages = sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "guardrails.md")  # it has examples
    yield "this documentation", "\n".join(page.read_text("utf-8") for page in pages)
    yield "Python's library", program_text(4 << 20)


def ordinary(data: Path, limit: int | None) -> None:
    """What is refused of ordinary answers."""
    print(f"\n| ordinary answers of {ANSWER} characters | refused | per 1,000 |\n|---|---|---|")
    for name, text in ordinary_texts(data):
        parts = [text[at : at + ANSWER] for at in range(0, len(text), ANSWER)][:limit]
        refused = sum(map(answer, parts))
        print(f"| {name} | {refused} of {len(parts)} | {1000 * refused / len(parts):.2f} |")


def own(data: Path, limit: int | None) -> None:  # noqa: ARG001  # as all tables
    """The pairs of this repository."""
    table("pairs of this repository", (("harmful", pair.harmful) for pair in PAIRS[:limit]), request)
    table("their neighbours", (("harmless", pair.harmless) for pair in PAIRS[:limit]), request)
    table("disguised", (("harmful", text) for text in DISGUISED[:limit]), request)


def costs(data: Path, limit: int | None) -> None:
    """CPU time per KB: of a request, and of an answer in chunks of 4 characters."""
    print("\n| CPU time, ms per KB | request | answer |\n|---|---|---|")
    for name, text in ordinary_texts(data):
        parts = pieces(text, 4096)[: 40 if limit is None else 2]
        print(f"| {name} | {cost(request, parts):.3f} | {cost(streamed, parts):.3f} |")


def streamed(text: str) -> None:
    """Judge *text* in chunks of the size of a token."""
    screen = AnswerScreen(window=_GUARDRAIL.window, refusal=lambda passage: _judge(passage))
    _drain(screen, [Chunk(text=text[at : at + 4]) for at in range(0, len(text), 4)])


def _judge(passage: str) -> None:
    _GUARDRAIL.check(passage, Direction.OUTPUT, _METADATA)


TABLES = {"own": own, "requests": requests, "answers": answers, "groups": groups, "ordinary": ordinary, "costs": costs}


def main() -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, default=DATA, help="the folder with guardrails/ and text/")
    made.add_argument("--only", choices=list(TABLES), help="one table")
    options = parsed(made)
    for name, show in TABLES.items():
        if options.only in (None, name):
            show(options.data, 20 if options.smoke else None)


if __name__ == "__main__":
    main()
