"""The integrators' page is correct: its policies load, its tables are complete, its messages are the real ones."""

import re
from pathlib import Path

import pytest

from hybrid_llm.core.errors import PolicyError
from hybrid_llm.core.request import Location
from hybrid_llm.lab.casefile import parse_cases
from hybrid_llm.lab.cases import run_suite
from hybrid_llm.policies import KNOWN_DETECTORS, builtin_names, parse_policy
from hybrid_llm.policies.language.schema import Objectives, Schema
from tests.policies.test_jsonschema import CASES_TABLE, tables

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


def blocks(page: str, *, cases: bool) -> list[str]:
    """The blocks of YAML on the page: files of cases say so in their first line, all others are policies."""
    found = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    return [block for block in found if block.startswith("# clinic.test.yaml") is cases]


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text("utf-8")


def test_every_policy_on_the_page_loads(page):
    policies = blocks(page, cases=False)
    assert len(policies) >= 4
    for block in policies:
        parse_policy(block)


def test_the_cases_on_the_page_are_those_of_its_first_policy_and_pass(page):
    policy = parse_policy(blocks(page, cases=False)[0])
    (text,) = blocks(page, cases=True)
    suite = parse_cases(text, "clinic.test.yaml", lambda _: policy)
    report = run_suite(policy, suite.cases)
    assert report.passed, report.outcomes


def test_every_key_of_a_file_of_cases_is_on_the_page(page):
    for table in tables(CASES_TABLE):
        if table.title not in {"request", "signals"}:
            names = [key.name for key in table.keys]
            assert all(f"`{name}" in page or f" {name}`" in page or f"{name}:" in page for name in names)


def test_every_name_of_the_language_is_on_the_page(page):
    schema = Schema({"edge": Location.EDGE, "cloud": Location.CLOUD}, Objectives())
    for root in ("request", "device", "network", "budget", "edge", "objectives"):
        for name in schema.fields(root):
            assert f"`{root}.{name}`" in page or f"`.{name}`" in page, f"{root}.{name}"
    for name in (*builtin_names(), *KNOWN_DETECTORS):
        assert f"`{name}`" in page


def test_the_error_on_the_page_is_the_real_one(page):
    text = (
        "version: 1\nname: clinic\ntags:\n  public: {allow: [edge, cloud]}\n\nrules:\n"
        "  - exclude: egde\n    when: device.battery < 20%\n"
    )
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, path="clinic.yaml")
    assert f"```text\n{caught.value}\n```" in page


def test_the_warning_on_the_page_is_the_real_one(page):
    text = (
        "version: 1\nname: clinic\ntags:\n  public: {allow: [edge, cloud]}\n\n\nrules:\n"
        "  - prefer: edge\n    when: device.cpu_load >= 0% && network.online\n"
    )
    (warning,) = parse_policy(text, path="clinic.yaml").warnings
    assert f"```text\n{warning}\n```" in page
