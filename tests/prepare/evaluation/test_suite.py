"""Suites: what is read, what is refused, and what becomes of items that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_llm.core.errors import BackendUnavailable, ConfigError, NoEligibleBackend, PrivacyViolation
from hybrid_llm.prepare.evaluation.metrics.bootstrap import Estimate
from hybrid_llm.prepare.evaluation.records import read_records
from hybrid_llm.prepare.evaluation.report.page import page
from hybrid_llm.prepare.evaluation.report.words import terminal_lines
from hybrid_llm.prepare.evaluation.results import Results, read_results
from hybrid_llm.prepare.evaluation.running import TaskRun
from hybrid_llm.prepare.evaluation.stored import StoredAnswers
from hybrid_llm.prepare.evaluation.suite import read_suite
from hybrid_llm.prepare.evaluation.template import Template
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import UP_TO_DATE, plan_recipe, run_recipe
from tests.prepare.evaluation.fakes import Table, answered

EXAMPLE = Path(__file__).parents[3] / "examples" / "evaluation" / "suite.yaml"


def write(folder, tasks, data=None):
    for name, records in (data or {}).items():
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    path = folder / "suite.yaml"
    path.write_text(f"version: 1\nname: small\ntasks:\n{tasks}")
    return read_suite(path)


def classify(folder, **more):
    data = [{"text": f"t{n}", "label": "yes" if n % 2 else "no"} for n in range(6)]
    return write(folder, "  one: {kind: classify, data: d.jsonl}\n", {"d.jsonl": data}).tasks["one"]


def test_the_example_reads_and_every_task_has_items():
    suite = read_suite(EXAMPLE)
    assert {name: len(task.items()) for name, task in suite.tasks.items()} == {
        "reviews": 32,
        "questions": 20,
        "orders": 12,
        "endings": 20,
        "english": 7,
    }
    assert {name: task.quality_metric for name, task in suite.tasks.items()} == {
        "reviews": "accuracy",
        "questions": "token_f1",
        "orders": "json_valid",
        "endings": "accuracy",
        "english": "",
    }


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{kind: clasify, data: d}", "did you mean `classify`"),
        ("{kind: classify}", "data"),
        ("{kind: classify, data: d, metrics: [bleu]}", "`bleu`"),
        ("{kind: generate, data: d, prompt: 'a {b'}", "a brace is alone"),
        ("{kind: classify, data: d, metrics: [accuracy], quality: f1_macro}", "none of the metrics of this task"),
    ],
)
def test_a_wrong_suite_is_refused_with_its_position(tmp_path, task, message):
    with pytest.raises(ConfigError, match=message) as caught:
        write(tmp_path, f"  one: {task}\n")
    assert "suite.yaml:4:" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", '{"a": 1}\n{"a": SECRET', "d.jsonl:2 is no JSON object"),
        ("d.jsonl", "[1]\n", "d.jsonl:1 is no JSON object"),
        ("d.jsonl", "\n\n", "no record"),
        ("d.csv", "a,b\n1,2\n3\n", "d.csv:3 has not as many columns"),
        ("d.csv", 'a,b\n1,"SECRET\n', "no CSV"),
        ("gone.jsonl", None, "cannot be read"),
    ],
)
def test_broken_data_is_a_typed_error_that_quotes_nothing(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_records(tmp_path / name, "", 0)
    assert "SECRET" not in str(caught.value)


def test_a_data_folder_is_evaluated_on_what_was_not_trained_on(tmp_path):
    (tmp_path / "data.json").write_text(
        json.dumps({"version": 1, "format": "labelled", "splits": {"train": 1, "validation": 1}, "labels": ["a"]})
    )
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": split, "label": "a"}) + "\n")
    assert read_records(tmp_path, "", 0) == [{"text": "validation", "label": "a"}]
    assert read_records(tmp_path, "train", 0)[0]["text"] == "train"


def test_templates():
    template = Template.parse("{q} {{x}} {q}")
    assert template.filled({"q": "{a}"}) == "{a} {x} {a}"
    with pytest.raises(ConfigError, match=r"no column `q`; it has: other"):
        template.filled({"other": "SECRET"})


def test_shots_come_before_the_prompt_and_are_not_evaluated(tmp_path):
    task = write(
        tmp_path,
        "  one: {kind: generate, data: d.jsonl, prompt: 'Q: {q}', reference: a, shots: 2, system: S}\n",
        {"d.jsonl": [{"q": n, "a": f"a{n}"} for n in range(5)]},
    ).tasks["one"]
    items = task.items()
    assert len(items) == 3
    assert [(m.role, m.content) for m in items[0].messages] == [
        ("system", "S"),
        ("user", "Q: 0"),
        ("assistant", "a0"),
        ("user", "Q: 1"),
        ("assistant", "a1"),
        ("user", "Q: 2"),
    ]
    with pytest.raises(ConfigError, match="too few records for 5 shots"):
        replace(task, shots=5).items()


def test_errors_of_items_are_counted_and_count_as_wrong(tmp_path):
    task = classify(tmp_path)
    answers = {f"t{n}": answered("yes" if n % 2 else "no", 0.9) for n in range(6)}
    answers["t0"], answers["t1"] = BackendUnavailable("SECRET", backend="b"), BackendUnavailable("x", backend="b")
    run = TaskRun(task, (), 0)
    run.ask(Table("one", answers), StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    scores = run.result().scores["one"]
    assert scores.errors == {"BackendUnavailable": 2}
    assert scores.metrics["accuracy"].value == pytest.approx(4 / 6)
    assert scores.metrics["calibration_error"].value == pytest.approx(0.1)
    assert "SECRET" not in json.dumps([answer.to_dict() for answer in run.answers["one"]])


def test_broken_trust_ends_the_run(tmp_path):
    answers = {f"t{n}": PrivacyViolation("x", location="cloud") for n in range(6)}
    with pytest.raises(PrivacyViolation):
        TaskRun(classify(tmp_path), (), 0).ask(
            Table("one", answers), StoredAnswers(tmp_path / "s", "k"), lambda *_: None
        )


def test_what_a_subject_cannot_do_is_said_instead_of_a_figure(tmp_path):
    task = write(tmp_path, "  p: {kind: perplexity, data: d.jsonl}\n", {"d.jsonl": [{"text": "a"}]}).tasks["p"]
    run = TaskRun(task, (), 0)
    run.ask(Table("one", {}), StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    assert run.result().scores["one"].skipped == "a table has no probabilities"
    assert run.result().compared == ()


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    task = classify(tmp_path)
    answers = {f"t{n}": answered("yes", 0.6) for n in range(6)}
    broken = Table("one", {**answers, "t3": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        TaskRun(task, (), 0).ask(broken, StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    (stored,) = (tmp_path / "s").iterdir()
    stored.write_text(stored.read_text() + '["cut off', "utf-8")  # as a kill leaves it
    again, whole = Table("one", answers), Table("one", answers)
    resumed, fresh = TaskRun(task, (), 0), TaskRun(task, (), 0)
    resumed.ask(again, StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    fresh.ask(whole, StoredAnswers(tmp_path / "new", "k"), lambda *_: None)
    assert (again.asked, whole.asked) == (3, 6)
    assert resumed.answers == fresh.answers
    third = Table("one", answers)
    TaskRun(task, (), 0).ask(third, StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    assert third.asked == 0  # the line behind the cut one is whole


def test_no_backend_that_may_answer_is_an_error_of_the_item(tmp_path):
    run = TaskRun(classify(tmp_path), (), 0)
    error = NoEligibleBackend("none", decision=None)
    run.ask(Table("one", {f"t{n}": error for n in range(6)}), StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    assert run.result().scores["one"].errors == {"NoEligibleBackend": 6}


@pytest.fixture
def results(tmp_path):
    task = classify(tmp_path)
    right = {f"t{n}": answered("yes" if n % 2 else "no", 0.9) for n in range(6)}
    run = TaskRun(task, (), 0)
    for name, table in (("<good>", right), ("bad", {f"t{n}": answered("yes", 0.7) for n in range(6)})):
        run.ask(Table(name, table), StoredAnswers(tmp_path / name.strip("<>"), "k"), lambda *_: None)
    subjects = {"<good>": Table("<good>", {}).about, "bad": Table("bad", {}).about}
    return Results(
        suite="s<1>", suite_digest="d", about="", created="now", seed=0, subjects=subjects, tasks={"one": run.result()}
    )


def test_results_are_read_back_as_they_were(results, tmp_path):
    path = tmp_path / "results.json"
    path.write_text(results.to_json())
    assert read_results(path) == results
    assert results.tasks["one"].scores["bad"].metrics["accuracy"] == Estimate(
        value=0.5, low=pytest.approx(0.0, abs=0.4), high=pytest.approx(1.0, abs=0.4)
    )
    path.write_text(results.to_json().replace('"version": 1', '"version": 2'))
    with pytest.raises(ConfigError, match="evaluate again"):
        read_results(path)


def test_a_difference_is_said_only_where_it_is_certain(results):
    lines = "\n".join(terminal_lines(results))
    assert "accuracy: bad is worse than <good>, -0.500" in lines
    assert "McNemar p 0.250" in lines


def test_the_page_is_self_contained_and_quotes_names(results):
    made = page(results)
    assert "<good>" not in made
    assert "&lt;good&gt;" in made
    for word in ("http:", "https:", "<script", "src=", "url(", "@import"):
        assert word not in made


def test_a_step_is_not_up_to_date_once_what_the_suite_names_has_changed(tmp_path):
    """The figures of other items, another schema or another policy are no figures of these."""
    for name, text in (
        ("items.jsonl", '{"question": "a", "answer": "b"}\n'),
        ("schema.json", "{}"),
        ("policy.yaml", "version: 1\nname: alone\n"),
        ("hybrid.yaml", "version: 1\nbackends: {edge: {kind: onnx}}\npolicy: policy.yaml\n"),
        (
            "suite.yaml",
            "version: 1\nname: s\ntasks:\n  t: {kind: generate, data: items.jsonl, prompt: '{question}', "
            "reference: answer, max_tokens: 1, schema: schema.json}\n",
        ),
        (
            "recipe.yaml",
            "version: 1\nname: r\nsteps:\n"
            "  report: {kind: evaluate, suite: suite.yaml, config: hybrid.yaml, backends: [edge], "
            "keep_answers: true}\n",
        ),
    ):
        (tmp_path / name).write_text(text)

    def run():
        recipe = read_recipe(tmp_path / "recipe.yaml")
        run_recipe(recipe, tmp_path / "out")
        assert (tmp_path / "out" / "report" / "answers.jsonl").stat().st_mode & 0o077 == 0  # they may be private
        return read_results(tmp_path / "out" / "report" / "results.json").suite_digest

    def why():
        return plan_recipe(read_recipe(tmp_path / "recipe.yaml"), tmp_path / "out")[0].why

    first = run()
    assert why() == UP_TO_DATE
    for name, text, changed in (
        ("items.jsonl", '{"question": "a", "answer": "c"}\n', "the data of `t` has changed"),
        ("schema.json", '{"type": "object"}', "the schema of `t` has changed"),
        ("policy.yaml", "version: 1\nname: other\n", "the policy has changed"),
    ):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text)
        assert why() == changed
        (tmp_path / name).write_text(before)
    assert why() == UP_TO_DATE
    (tmp_path / "items.jsonl").write_text('{"question": "a", "answer": "c"}\n')
    assert run() != first


def test_the_last_match_of_a_pattern_is_compared(tmp_path):
    records = [{"q": "a", "r": "It is 12."}, {"q": "b", "r": "12"}, {"q": "c", "r": "7 or 9"}]
    options = "kind: generate, data: d.jsonl, prompt: '{q}', reference: r, metrics: [verbatim]"
    task = write(tmp_path, f"  one: {{{options}, extract: '[0-9]+'}}\n", {"d.jsonl": records}).tasks["one"]
    run = TaskRun(task, (), 0)
    answers = {"a": answered("1 and 12!"), "b": answered("12 or 13"), "c": answered("")}
    run.ask(Table("one", answers), StoredAnswers(tmp_path / "s", "k"), lambda *_: None)
    assert run.result().scores["one"].metrics["verbatim"].value == pytest.approx(1 / 3)
    assert run.answers["one"][0].text == "1 and 12!"
    assert replace(task, extract="is ([0-9])").compared("it is 12, is 34, 5") == "3"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is no regular expression"), ("[0-9]{3}", "a reference that `extract` does not match")],
)
def test_a_pattern_that_compares_nothing_is_refused(pattern, message, tmp_path):
    options = "kind: generate, data: d.jsonl, prompt: '{q}', reference: r, metrics: [verbatim]"
    tasks = f"  one: {{{options}, extract: '{pattern}'}}\n"
    with pytest.raises(ConfigError, match=message):
        write(tmp_path, tasks, {"d.jsonl": [{"q": "a", "r": "12"}]}).tasks["one"].items()
