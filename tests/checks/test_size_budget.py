"""The size budget finds long functions and modules, and cycles of imports between modules and rooms."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("size_budget", Path(__file__).with_name("size_budget.py"))
budget = importlib.util.module_from_spec(SPEC)


@pytest.fixture(autouse=True, scope="module")
def loaded():
    import sys

    sys.modules["size_budget"] = budget  # dataclasses look their module up
    SPEC.loader.exec_module(budget)
    yield
    del sys.modules["size_budget"]


def test_a_cycle_is_all_modules_that_reach_each_other():
    graph = {"a": ["b"], "b": ["c"], "c": ["a", "d"], "d": ["e"], "e": ["d"], "f": ["a"]}
    assert budget.cycles(graph) == [["a", "b", "c"], ["d", "e"]]


def test_a_module_right_in_a_room_is_a_room_of_its_own_at_two_levels():
    graph = {"hybrid_llm.router.config.read": ["hybrid_llm.router.fleet"], "hybrid_llm.router.fleet": []}
    assert budget.between_rooms(graph, 2) == {"router.config": {"router.fleet"}, "router.fleet": set()}
    assert budget.between_rooms(graph, 1) == {"router": {"router"}}
    assert budget.cycles(budget.between_rooms(graph, 1)) == []


def test_what_is_too_long_is_named_with_its_place():
    module = budget.Module("router/x.py", 401, (("long", 7, 41), ("short", 60, 40)))
    assert list(budget.too_long(module)) == [
        "router/x.py: 401 lines; a module has at most 400",
        "router/x.py:7: long has 41 lines; a function has at most 40",
    ]
