"""`hybrid-llm task`: one of the tasks of `hybrid_llm.tasks` about a text."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, cast

from hybrid_llm import tasks
from hybrid_llm.cli import arguments
from hybrid_llm.cli.arguments import Command, Group
from hybrid_llm.cli.chat import Session
from hybrid_llm.cli.terminal import Exit, note, output
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.request import GenerateOptions
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.tasks.results import TaskResult

_CODES: Final = (Exit.FAILURE, Exit.CONFIG, Exit.ROUTING, Exit.BACKEND, Exit.SECURITY, Exit.INTERRUPTED)
Begin = Callable[[argparse.Namespace, str, HybridLLM, GenerateOptions], Coroutine[Any, Any, TaskResult]]
"""Begins the task with the options of the command line, about a text."""


def _command(
    about: str,
    begin: Begin,
    show: Callable[[Any], Iterator[str]],
    options: Callable[[argparse.ArgumentParser], None],
    *examples: str,
) -> Command:
    """A command that does a task and prints what *show* makes of its result."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("text", metavar="TEXT", help="the text; - reads it from standard input")
        options(parser)
        arguments.add_config(parser)
        parser.add_argument("--privacy", action="append", default=[], metavar="TAG", help="a privacy tag; repeatable")
        parser.add_argument("--max-tokens", type=int, metavar="N", help="maximum tokens of an answer")
        parser.add_argument("--deadline", type=float, metavar="S", help="seconds until the result must be complete")
        arguments.add_json(parser)

    def run(args: argparse.Namespace) -> int:
        names = ("max_tokens", "deadline")
        given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        if args.privacy:
            given["privacy"] = frozenset(args.privacy)
        text = arguments.read_prompt(args.text)
        with Session(args.config) as session:
            result = session.run(begin(args, text, session.client, cast(GenerateOptions, given)))
            session.show_notice(result.generation)
        output(_document(result), show(result), as_json=args.json)
        if not result.is_complete:
            note("an answer was cut off: raise --max-tokens")
        return Exit.OK

    return Command(about=about, options=add, run=run, examples=examples, codes=_CODES)


def _document(result: TaskResult) -> dict[str, object]:
    plain = {name: getattr(result, name) for name in result.__dataclass_fields__ if name != "generations"}
    plain.pop("previous", None)
    answers = [each.to_dict() for each in result.generations]
    return {**cast("dict[str, object]", jsonable(plain)), "backend": result.backend, "generations": answers}


def _text(result: Any) -> Iterator[str]:
    yield result.text if result.text is not None else "the text does not say"


def _label(result: tasks.Classification) -> Iterator[str]:
    yield result.label
    for label, score in result.scores.items():
        yield f"  {score:6.1%}  {label}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _summarise_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sentences", type=int, default=3, metavar="N", help="how many at most (3)")


def _translate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", required=True, metavar="LANGUAGE", help="the language, such as French")


def _classify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", required=True, type=_names, metavar="A,B,...", help="the labels")
    parser.add_argument("--threshold", type=float, metavar="P", help="least score, else the next backend is asked")
    parser.add_argument("--exact", action="store_true", help="ask once more for each label that is unlikely")


def _extract_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", required=True, type=_names, metavar="A,B,...", help="what to extract")


def _answer_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", required=True, metavar="TEXT", help="the question")


SUMMARISE: Final = _command(
    "Summarise a text.",
    lambda args, text, llm, options: tasks.asummarise(text, sentences=args.sentences, llm=llm, **options),
    _text,
    _summarise_options,
    "hybrid-llm task summarise 'The bridge is closed for repairs until May.' --sentences 1",
)
TRANSLATE: Final = _command(
    "Translate a text.",
    lambda args, text, llm, options: tasks.atranslate(text, args.to, llm=llm, **options),
    _text,
    _translate_options,
    "hybrid-llm task translate 'The bridge is closed.' --to French",
)
CLASSIFY: Final = _command(
    "Give a text one of some labels, with a probability for each.",
    lambda args, text, llm, options: tasks.aclassify(
        text, args.labels, threshold=args.threshold, exact=args.exact, llm=llm, **options
    ),
    _label,
    _classify_options,
    "hybrid-llm task classify 'A warm, funny film.' --labels positive,negative --threshold 0.8",
)
EXTRACT: Final = _command(
    "Extract what a text names of some kinds, as JSON.",
    lambda args, text, llm, options: tasks.aextract(text, args.kinds, llm=llm, **options),
    lambda result: iter([json.dumps(result.value, ensure_ascii=False)]),
    _extract_options,
    "hybrid-llm task extract 'Anna Keller lives in Lisbon.' --kinds person,city",
)
ANSWER: Final = _command(
    "Answer a question from a text alone.",
    lambda args, text, llm, options: tasks.aanswer(text, args.question, llm=llm, **options),
    _text,
    _answer_options,
    "hybrid-llm task answer 'The mayor is Anna Keller.' --question 'Who is the mayor?'",
)
TASK: Final = Group(
    about="Do with a text what people do with texts; docs/tasks.md says how well small models do it.",
    commands={
        "summarise": ("hybrid_llm.cli.task:SUMMARISE", "a summary"),
        "translate": ("hybrid_llm.cli.task:TRANSLATE", "a translation"),
        "classify": ("hybrid_llm.cli.task:CLASSIFY", "a label with scores"),
        "extract": ("hybrid_llm.cli.task:EXTRACT", "what the text names, as JSON"),
        "answer": ("hybrid_llm.cli.task:ANSWER", "the answer to a question"),
    },
    examples=(
        "hybrid-llm task classify 'A warm, funny film.' --labels positive,negative",
        "hybrid-llm task summarise 'The bridge is closed for repairs until May.' --sentences 1",
    ),
    codes=_CODES,
)
