"""Every example runs as its first line says."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, timeout=120)


@cache
def ran(name: str) -> subprocess.CompletedProcess[str]:
    """What became of an example in development mode, with warnings as errors; it runs once for all tests."""
    command = [sys.executable, "-X", "dev", "-W", "error", EXAMPLES / name]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("[!_]*.py")))
def test_a_script_runs(name):
    done = ran(name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("[!_]*.py")))
def test_a_script_leaves_nothing_open_in_development_mode_with_warnings_as_errors(name):
    done = ran(name)
    assert done.returncode == 0, done.stderr
    signs = ("Warning", "Traceback", "never retrieved", "never awaited", "already running", "Exception ignored")
    assert not any(sign in done.stderr for sign in signs), done.stderr


def test_a_chat_goes_out_under_pseudonyms_and_comes_back_with_its_values():
    out = ran("pseudonyms.py").stdout
    saw = [line for line in out.splitlines() if line.startswith(("the cloud saw", "afterwards"))]
    got = [line for line in out.splitlines() if line.startswith("the app got")]
    assert "jane@example.org" not in "".join(saw)
    assert all("jane@example.org" in line for line in got)
    first, second, afterwards = (re.findall(r"EMAIL_\w{5}", line) for line in saw)
    assert first == second != afterwards


def test_a_name_goes_out_as_a_pseudonym_and_comes_back():
    saw, got = ran("names.py").stdout.splitlines()
    assert re.fullmatch(r"the cloud saw: My name is PERSON_\w{5}, mail EMAIL_\w{5}", saw)
    assert got == "the app got:   My name is Jane Doe, mail jane@example.org"


def test_a_schema_holds_as_a_dict_and_as_a_model_and_one_that_cannot_be_enforced_is_rejected():
    out = ran("structured.py").stdout.splitlines()
    assert out[0] == "Anna Keller | Lisbon | stop"
    assert out[-1].startswith("rejected before anything ran: output_schema: `not`")
    assert (importlib.util.find_spec("pydantic") is None) == (len(out) == 2)


def test_an_answer_that_breaks_off_is_continued_and_reports_where():
    out = ran("continuation.py").stdout.splitlines()
    assert out == ["The train leaves at nine from platform four.", "far continued after 'The train leaves at'"]


def test_a_tenant_that_has_spent_its_budget_gets_answers_from_the_device():
    out = ran("budget.py").stdout.splitlines()
    assert [line.split()[1] for line in out[:6]] == ["cloud"] * 3 + ["edge"] * 3
    assert "the budget of 0.1 USD a day does not allow it" in out[5]
    assert out[6] == "another tenant: cloud"


def test_recorded_decisions_hold_no_text_and_are_compared_with_another_policy():
    out = ran("record_and_diff.py").stdout
    assert "3 decisions, '12 + 30' in trace.read_text()=False" in out
    assert "1 of 3 requests would go to another backend" in out
    assert "exit code: 1" in out


def test_an_unreachable_node_of_two_costs_no_request(node, tmp_path):
    folder = tmp_path / "nodes"
    shutil.copytree(EXAMPLES / "nodes", folder)
    shutil.copytree(node.tls, folder / "tls")
    config = folder / "hybrid.yaml"
    text = config.read_text().replace("7443", str(node.port)).replace("7444", "1")
    config.write_text(text.replace("latency-first", "policy.yaml"))
    (folder / "policy.yaml").write_text("version: 1\nname: far\nrules: [{prefer: [cloud]}]\n")
    done = run(folder / "ask.py")
    assert "{'cloud'} 8 answers" in done.stdout, done.stdout + done.stderr


def test_a_detector_of_the_app_sets_its_tag():
    assert "tags ['internal']" in ran("own_detector.py").stdout


def test_guardrails_refuse_a_request_a_disguised_word_and_an_answer():
    assert ran("guardrails.py").stdout.splitlines() == [
        "refused: input, default, weapons",
        "refused: input, denylist, secret",
        "refused: output, prices, price",
        "Hello!",
    ]


def test_the_clinic_keeps_a_patient_on_the_device_and_sends_the_rest_where_it_fits(node, tmp_path):
    folder = tmp_path / "clinic"
    shutil.copytree(EXAMPLES / "clinic", folder)
    shutil.copytree(node.tls, folder / "tls")
    config = folder / "hybrid.yaml"
    config.write_text(config.read_text().replace("7443", str(node.port)))
    private, public = run(folder / "ask.py"), run(folder / "ask.py", "word " * 500 + "Is it long?")
    assert "order: edge " in private.stdout, private.stderr
    assert "tag phi allows only edge" in private.stdout
    assert "order: cloud " in public.stdout, public.stderr


def test_an_example_without_its_certificates_says_what_is_missing():
    done = run(EXAMPLES / "clinic" / "ask.py")
    assert done.returncode == 1
    assert "does not exist; create certificates" in done.stderr


def test_every_example_is_listed():
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix == ".py" or path.is_dir()]
    assert [name for name in names if not name.startswith("_") and f"({name})" not in listed] == []
