"""Evaluates subjects on a suite, and writes `results.json` and `report.html`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.files import replace_text
from hybrid_llm.prepare.evaluation.report.page import page
from hybrid_llm.prepare.evaluation.results import RESULTS_NAME, Results
from hybrid_llm.prepare.evaluation.running import Report, TaskRun
from hybrid_llm.prepare.evaluation.stored import StoredAnswers
from hybrid_llm.prepare.evaluation.subjects.opening import Named, open_subject, require_there
from hybrid_llm.prepare.evaluation.subjects.subject import About, Subject
from hybrid_llm.prepare.evaluation.suite import Suite
from hybrid_llm.prepare.recipe.digests import key_of

REPORT_NAME: Final = "report.html"
ANSWERS_NAME: Final = "answers.jsonl"


def evaluate(
    suite: Suite,
    subjects: Sequence[Named],
    out: Path,
    scratch: Path,
    *,
    seed: int = 0,
    keep_answers: bool = False,
    report: Report = lambda what, share: None,  # noqa: ARG005
) -> Results:
    """Evaluate *subjects*, one after the other, so that only one model is in memory.

    Args:
        suite: The tasks.
        subjects: What is compared.
        out: The folder of the results, which exists.
        scratch: Where answers are kept until the results are written.
        seed: Of the bootstrap.
        keep_answers: Leave the answers beside the results: they may be private.
        report: Called now and then.

    Raises:
        ConfigError: a subject or the data of a task is unusable. Errors of single items are counted.
        NoSpace: the disk is full.
    """
    _check_subjects(subjects)
    runs = [TaskRun(task, suite.privacy, seed) for task in suite.tasks.values()]
    abouts: dict[str, About] = {}
    with disk_errors(out, "or choose another folder"):
        for named in subjects:
            report(f"opening {named.name}", 0.0)
            with closing(open_subject(named)) as subject:
                abouts[subject.name] = subject.about
                for run in runs:
                    run.ask(subject, _stored(scratch, run, subject), report)
        results = Results(
            suite=suite.name,
            suite_digest=key_of(suite=suite.digest, **suite.files),
            about=suite.about,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=seed,
            subjects=abouts,
            tasks={run.task.name: run.result() for run in runs},
        )
        if keep_answers:
            replace_text(out / ANSWERS_NAME, "".join(_answer_lines(runs)), mode=0o600)
        replace_text(out / REPORT_NAME, page(results))
        replace_text(out / RESULTS_NAME, results.to_json())
    return results


def _check_subjects(subjects: Sequence[Named]) -> None:
    if not subjects:
        raise ConfigError("there is nothing to evaluate: name a model folder or a hybrid.yaml")
    for name, count in Counter(named.name for named in subjects).items():
        if count > 1:
            raise ConfigError(f"{count} subjects have the name `{name}`: write NAME=PATH")
    for named in subjects:
        require_there(named)  # before the first of them is asked for hours


def _stored(scratch: Path, run: TaskRun, subject: Subject) -> StoredAnswers:
    about = subject.about
    identity = (about.what, about.policy, json.dumps(dict(about.digests), sort_keys=True))
    return StoredAnswers(scratch, run.task.name, run.identity, subject.name, *identity)


def _answer_lines(runs: Sequence[TaskRun]) -> Iterator[str]:
    for run in runs:
        for subject, answers in run.answers.items():
            for number, answer in enumerate(answers):
                plain = {"task": run.task.name, "subject": subject, "item": number, **answer.to_dict()}
                yield json.dumps(plain, ensure_ascii=False) + "\n"
