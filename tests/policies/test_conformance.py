"""CEL's own conformance files hold for the part of the language that policies have, and the page says how many."""

import pytest

from tests.policies.conformance import FOLDER, PAGE, all_outcomes, on_page, table


@pytest.fixture(scope="module")
def found():
    if not FOLDER.is_dir():
        pytest.skip(f"the conformance files of google/cel-spec (tests/simple/testdata) are not in {FOLDER.name}/")
    return all_outcomes()


def test_no_case_that_is_in_scope_fails(found):
    failed = [outcome for outcome in found if not outcome.passed and not outcome.reason]
    assert not failed, "\n".join(f"{one.file} {one.case}: {one.detail}" for one in failed)
    assert sum(outcome.passed for outcome in found) > 300


def test_the_table_on_the_page_is_the_one_measured(found):
    assert on_page(PAGE.read_text("utf-8")) == table(found), "run: python -m tests.policies.conformance"


def test_what_is_out_of_scope_is_so_for_a_class_that_the_page_explains(found):
    page = PAGE.read_text("utf-8")
    for reason in {outcome.reason for outcome in found if outcome.reason}:
        assert f"**{reason}**" in page, reason
