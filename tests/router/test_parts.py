"""A part that fails takes only itself out: it is not ready, with a reason, and the other backends answer."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.edge.backend import embedded_model
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.exact import ExactEdge, answer_to, prompt_of

PROMPT = prompt_of(1, 3)


class Cloud(ExactEdge):
    """A healthy one."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.location = "cloud", Location.CLOUD


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def client(edge, order: str) -> HybridLLM:
    places = {"edge": Location.EDGE, "cloud": Location.CLOUD}
    policy = parse_policy(f"version: 1\nname: p\nrules:\n  - prefer: [{order}]\n", backends=places)
    return HybridLLM([edge, Cloud()], policy, sensors=FixedSensors())


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", [remove, cut])
@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("tokenizer.json", "cloud, edge"),
        ("tokenizer.json", "edge, cloud"),
        ("model.onnx", "edge, cloud"),
        ("model.onnx.data", "edge, cloud"),
        ("tokenizer_config.json", "edge, cloud"),
    ],
)
def test_a_file_of_the_edge_that_is_broken_at_its_first_use_costs_the_edge_alone(tmp_path, caplog, name, order, damage):
    folder = tmp_path / "model"
    shutil.copytree(embedded_model(), folder)
    with client(EdgeBackend(EdgeConfig(model=folder)), order) as llm:
        damage(folder / name)
        for _ in range(5):
            assert llm.generate(PROMPT, deadline=30.0).text == answer_to(PROMPT)
        state = llm.signals().backends["edge"]
        assert (state.ready, name in state.reason) == (False, True)
        assert llm.generate(PROMPT).decision.excluded == {"edge": state.reason}
    told = [each for each in warnings(caplog) if "edge" in each and "fell back" not in each]
    assert len(told) == 1, told
    assert name in told[0]


def test_a_broken_chat_template_costs_the_edge_alone(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(embedded_model(), folder)
    with client(EdgeBackend(EdgeConfig(model=folder)), "edge, cloud") as llm:
        (folder / "chat_template.jinja").write_text("{% for m in %}")
        for _ in range(3):
            assert llm.generate(PROMPT, deadline=30.0).text == answer_to(PROMPT)
        assert not llm.signals().backends["edge"].ready


class Odd(ExactEdge):
    """A backend of the app of which *method* raises."""

    def __init__(self, method: str) -> None:
        super().__init__()
        setattr(self, method, self._raise)

    def _raise(self, *_: object) -> None:
        raise OSError("a library is missing")


@pytest.mark.parametrize("method", ["state", "count_tokens", "stream", "close"])
@pytest.mark.parametrize("order", ["cloud, edge", "edge, cloud"])
def test_a_backend_of_the_app_that_raises_costs_itself_alone(caplog, method, order):
    with client(Odd(method), order) as llm:
        for _ in range(5):
            assert llm.generate(PROMPT, deadline=30.0).text == answer_to(PROMPT)
    told = [each for each in warnings(caplog) if "OSError" in each]
    assert len(told) <= 1, "one for what happens with each request"
