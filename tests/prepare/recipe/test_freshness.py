"""A step runs again when what its configuration names has changed, and only then."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from hybrid_llm.core.fields import MapOf, key
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import plan_recipe, run_recipe
from hybrid_llm.prepare.step import CONFIG, DETECTORS, Makes, Outcome, Work
from hybrid_llm.prepare.steps import STEPS, register_step, table_of

KINDS = STEPS.names()
HYBRID = """
version: 1
policy: policy.yaml
backends:
  edge: {kind: encoder, model: ./edge}
  cloud: {kind: openai, base_url: "https://cloud.test/v1", model: large}
detectors: {own: {kind: ner, model: ./ner}}
guardrails: [{kind: denylist, words_file: words.txt}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Uses all of a configuration."""

    makes: ClassVar[Makes] = Makes.REPORT
    config: Path = key(CONFIG, "The file.")

    def run(self, work: Work) -> Outcome:
        """Do nothing."""
        (work.out / "done").touch()
        return Outcome()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded(Served):
    """Uses its detectors."""

    config: Path = key(DETECTORS, "The file.")


@pytest.fixture
def recipe(recipe_file, tmp_path):
    register_step("served", Served)
    register_step("guarded", Guarded)
    for folder in ("edge", "ner"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_text(folder)
    for name, text in {"hybrid.yaml": HYBRID, "policy.yaml": "one", "words.txt": "one", "other.txt": "one"}.items():
        (tmp_path / name).write_text(text)
    found = read_recipe(
        recipe_file("all: {kind: served, config: hybrid.yaml}", "some: {kind: guarded, config: hybrid.yaml}")
    )
    run_recipe(found, tmp_path / "out")
    assert not any(one.is_due for one in plan_recipe(found, tmp_path / "out"))
    return found


@pytest.mark.parametrize(
    ("changed", "due", "why"),
    [
        ("policy.yaml", {"all"}, "the policy has changed"),
        ("edge/model.onnx", {"all"}, "the model of `edge` has changed"),
        ("words.txt", {"all"}, "the guardrail `denylist` has changed"),
        ("ner/model.onnx", {"all", "some"}, "`own` of the detectors has changed"),
        ("other.txt", set(), ""),
    ],
)
def test_a_change_of_what_the_configuration_names_is_seen(recipe, tmp_path, changed, due, why):
    (tmp_path / changed).write_text("two")
    planned = [one for one in plan_recipe(recipe, tmp_path / "out") if one.is_due]
    assert {one.name for one in planned} == due
    assert {one.why for one in planned} <= {why}


def test_a_change_of_what_a_backend_asks_its_server_for_is_seen(recipe, tmp_path):
    before = tmp_path.joinpath("hybrid.yaml").read_text()
    tmp_path.joinpath("hybrid.yaml").write_text(before.replace("large", "larger"))
    assert {one.name for one in plan_recipe(recipe, tmp_path / "out") if one.is_due} == {"all", "some"}


def test_a_model_that_is_not_there_yet_is_left_to_the_step(recipe, tmp_path):
    for name in ("edge", "ner"):
        (tmp_path / name / "model.onnx").unlink()
        (tmp_path / name).rmdir()
    assert {one.name for one in plan_recipe(recipe, tmp_path / "out") if one.is_due} == {"all", "some"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_step_that_takes_a_configuration_sees_its_changes(kind):
    files = (one for one in table_of(kind).keys if one.name == "config" and not isinstance(one.kind, MapOf))
    assert all(one.kind in (CONFIG, DETECTORS) for one in files)
