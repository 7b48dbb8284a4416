"""`hybrid-llm models evaluate`: models, backends and policies side by side."""

from __future__ import annotations

import argparse
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from hybrid_llm.cli.arguments import Command, add_json, at_least, checked
from hybrid_llm.cli.terminal import Exit, Progress, note, output, print_json
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.jsontext import read_json
from hybrid_llm.prepare.evaluation.evaluating import REPORT_NAME, evaluate
from hybrid_llm.prepare.evaluation.report.words import terminal_lines
from hybrid_llm.prepare.evaluation.results import RESULTS_NAME, Results
from hybrid_llm.prepare.evaluation.subjects.opening import parse_subject
from hybrid_llm.prepare.evaluation.suite import read_suite, suite_schema

_SCRATCH: Final = ".answers"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects",
        nargs="*",
        type=checked(parse_subject),
        metavar="[NAME=]SUBJECT",
        help="a model folder; hybrid.yaml for its policy; hybrid.yaml:BACKEND; hybrid.yaml@THRESHOLD for a cascade",
    )
    parser.add_argument("--suite", type=Path, metavar="FILE", help="the suite of tasks, a YAML file")
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR", help="the folder of the results")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="use the first N items of each task")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the bootstrap (0)")
    parser.add_argument("--keep-answers", action="store_true", help="leave answers.jsonl too; it may be private")
    parser.add_argument("--lm-eval", default="", metavar="TASK,...", help="run tasks of lm-eval in place of a suite")
    parser.add_argument("--lm-eval-path", type=Path, metavar="DIR", help="a folder of further tasks of lm-eval")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of suites, for editors")
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    if args.schema:
        print_json(suite_schema())
        return Exit.OK
    if args.subjects and args.lm_eval:
        return _lm_eval(args)
    if not args.subjects or args.suite is None:
        note("hybrid-llm models evaluate: name what to evaluate, and a suite: models/mine --suite suite.yaml")
        return Exit.USAGE
    results = _evaluated(args)
    output(_document(args.out), terminal_lines(results), as_json=args.json)
    note(f"results in {args.out / RESULTS_NAME}, a page in {args.out / REPORT_NAME}")
    return Exit.OK


def _evaluated(args: argparse.Namespace) -> Results:
    suite = read_suite(args.suite)
    if args.limit:
        suite = replace(suite, tasks={name: replace(task, limit=args.limit) for name, task in suite.tasks.items()})
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{args.out} cannot be made: {error.strerror}", path=str(args.out)) from None
    with Progress(suite.name) as progress:
        results = evaluate(
            suite,
            args.subjects,
            args.out,
            args.out / _SCRATCH,
            seed=args.seed,
            keep_answers=args.keep_answers,
            report=progress.step,
        )
    shutil.rmtree(args.out / _SCRATCH, ignore_errors=True)
    return results


def _lm_eval(args: argparse.Namespace) -> int:
    from hybrid_llm.integrations.lm_eval import run_tasks
    from hybrid_llm.prepare.evaluation.subjects.opening import open_subject

    names = [name.strip() for name in args.lm_eval.split(",") if name.strip()]
    found = {}
    for named in args.subjects:
        with closing(open_subject(named)) as subject:
            found[named.name] = run_tasks(subject, names, include=args.lm_eval_path, limit=args.limit)
    lines = (
        f"{subject}  {task}  {metric.replace(',none', '')}  {value:.4f}"
        for subject, document in found.items()
        for task, figures in document["results"].items()
        for metric, value in figures.items()
        if isinstance(value, float)
    )
    output(jsonable(found), lines, as_json=args.json)
    return Exit.OK


def _document(out: Path) -> object:
    return read_json(out / RESULTS_NAME)


EVALUATE: Final = Command(
    about="Measure models, backends and policies by the tasks of a suite, on the same items, with intervals.\n"
    "Requests go through the client: what a privacy tag keeps on the device stays there. An interrupted run goes on.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm models evaluate models/mine --suite suite.yaml",
        "hybrid-llm models evaluate before=models/base after=models/tuned --suite suite.yaml --out report",
        "hybrid-llm models evaluate hybrid.yaml:edge hybrid.yaml hybrid.yaml@0.8 --suite suite.yaml",
    ),
    codes=(Exit.FAILURE, Exit.CONFIG, Exit.SECURITY, Exit.INTERRUPTED),
)
