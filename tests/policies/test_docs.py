"""The integrator's page tells the truth: its policies load, its tables are complete, its error is the real one."""

import re
from pathlib import Path

import pytest

from hybrid_llm.policies import KNOWN_DETECTORS, builtin_names, parse_policy
from hybrid_llm.policies.schema import Objectives, Schema
from hybrid_llm.router.errors import PolicyError
from hybrid_llm.router.types import Location

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text("utf-8")


def test_every_policy_on_the_page_loads(page):
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        parse_policy(block)


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
