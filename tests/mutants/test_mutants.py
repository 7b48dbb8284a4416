"""Every planted fault can be planted, and the tests notice two of them; `make mutants` plants them all."""

from __future__ import annotations

import ast
from dataclasses import replace

import pytest

from tests.mutants.__main__ import SUITES, Checkout, unplantable
from tests.mutants.changes import (
    Change,
    always,
    drop,
    drop_argument,
    drop_item,
    drop_operand,
    in_text,
    never,
    returns,
    swap,
)
from tests.mutants.mutant import Mutant, Unplantable

SOURCE = """
LIMIT: int = 3
class Shop:
    def price(self, item, *, tax):
        if item is None or tax < 0 or self.closed:
            raise ValueError(item, "no such item")
        self.log(item)
        return round(self.base(item, tax=tax), LIMIT)
"""


def changed(change: Change, old: str = "", new: str = "") -> bool:
    tree = ast.parse(SOURCE)
    assert change.apply(tree.body[1].body[0]) == 1
    return ast.unparse(ast.fix_missing_locations(tree)) == ast.unparse(ast.parse(SOURCE.replace(old, new)))


def test_every_fault_can_be_planted():
    assert list(unplantable()) == []


def test_no_fault_is_listed_twice():
    for suite in SUITES:
        assert len({mutant.what for mutant in suite.mutants}) == len(suite.mutants)


@pytest.mark.parametrize(
    ("name", "what", "test"),
    [
        ("policies", "tags are joined, not intersected", "policies/test_decide.py"),
        ("privacy", "a failed detector changes nothing", "router/test_guard.py"),
    ],
)
def test_a_planted_fault_is_noticed(name, what, test, tmp_path):
    (suite,) = (suite for suite in SUITES if suite.name == name)
    (mutant,) = (mutant for mutant in suite.mutants if mutant.what == what)
    quick = replace(suite, tests=(test,))
    assert test in suite.tests
    checkout = Checkout(tmp_path / "checkout", examples=20)
    assert (checkout.noticed_by(quick, mutant) or "").startswith(test)
    assert checkout.limit(quick)


@pytest.mark.parametrize(
    ("change", "old", "new"),
    [
        (swap("tax<0", "tax > 9"), "tax < 0", "tax > 9"),
        (swap("round(__x, LIMIT)", "__x"), "round(self.base(item, tax=tax), LIMIT)", "self.base(item, tax=tax)"),
        (swap("if __: ...", "if tax: ..."), "item is None or tax < 0 or self.closed", "tax"),
        (swap("raise __error", "return __error"), "raise ", "return "),
        (drop("self.log(__)"), "        self.log(item)\n", ""),
        (drop("if __: ..."), SOURCE[SOURCE.index("        if") : SOURCE.index("        self.log")], ""),
        (drop("raise __"), 'raise ValueError(item, "no such item")', "pass"),
        (always("self.closed"), "self.closed", "True"),
        (never("item is None"), "item is None", "False"),
        (drop_operand("tax < 0"), " or tax < 0", ""),
        (drop_argument("base", "tax"), ", tax=tax", ""),
        (drop_item("LIMIT"), ", LIMIT)", ")"),
        (in_text("no such", "one"), "no such", "one"),
        (returns("0"), SOURCE[SOURCE.index("        if") :], "        return 0\n"),
    ],
    ids=lambda value: value.words if isinstance(value, Change) else "",
)
def test_a_change_is_made_in_the_syntax_tree(change, old, new):
    assert changed(change, old, new)


@pytest.mark.parametrize(
    ("target", "change", "why"),
    [
        ("hybrid_llm.errors:", drop("pass"), "found 0 times"),
        ("hybrid_llm.core.gone:", drop("pass"), "there is no hybrid_llm/core/gone.py"),
        ("hybrid_llm.core.request:Reqest", drop("pass"), "Reqest is gone; is it Request now"),
        ("hybrid_llm.core.request:", swap("__", "0"), "not once"),
    ],
)
def test_a_fault_that_cannot_be_planted_says_which_name_is_gone(target, change, why):
    with pytest.raises(Unplantable, match=why):
        Mutant("a fault", target, change).planted()
