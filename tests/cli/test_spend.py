"""`hybrid-llm spend` shows the ledger, as a table and as JSON, and changes nothing."""

from __future__ import annotations

import json

import pytest

from hybrid_llm.core.savings import UNIT
from hybrid_llm.router.spending.stored import DatabaseLedger

NOON = 1_795_608_000.0


@pytest.fixture
def book(tmp_path):
    ledger = DatabaseLedger(tmp_path / "spend.db", "USD", lambda: NOON)
    ledger.settle(ledger.reserve("acme", UNIT, None), UNIT // 4)
    ledger.settle(ledger.reserve("", UNIT, None), 3)
    ledger.reserve("acme", UNIT // 2, None)
    ledger.close()
    return tmp_path / "spend.db"


def test_the_table_has_a_line_for_each_tenant_and_day(cli, book):
    result = cli("spend", "--file", book)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0].split() == ["day", "tenant", "requests", "spent", "reserved", "currency"]
    assert lines[2].split() == ["2026-11-25", "(none)", "1", "0.000000", "0.000000", "USD"]
    assert lines[3].split() == ["2026-11-25", "acme", "1", "0.250000", "0.500000", "USD"]


def test_json_is_for_programs_and_can_be_narrowed_down(cli, book):
    (line,) = json.loads(cli("spend", "--file", book, "--tenant", "acme", "--day", "2026-11-25", "--json").out)
    assert line == {
        "day": "2026-11-25",
        "tenant": "acme",
        "currency": "USD",
        "spent": 0.25,
        "reserved": 0.5,
        "requests": 1,
    }
    assert json.loads(cli("spend", "--file", book, "--day", "2026-11-24", "--json").out) == []


def test_the_ledger_is_found_through_the_configuration(cli, book, tmp_path):
    config = tmp_path / "hybrid.yaml"
    config.write_text("version: 1\nbackends: {edge: {kind: onnx}}\nspend: {file: spend.db}\n")
    assert "acme" in cli("spend", "--config", config).out
    config.write_text("version: 1\nbackends: {edge: {kind: onnx}}\n")
    result = cli("spend", "--config", config)
    assert result.code == 3
    assert "spend: {file: spend.db}" in result.err


def test_a_ledger_that_is_not_written_yet_is_no_error_and_a_file_that_does_not_exist_is_one(cli, tmp_path):
    config = tmp_path / "hybrid.yaml"
    config.write_text("version: 1\nbackends: {edge: {kind: onnx}}\nspend: {file: none.db}\n")
    result = cli("spend", "--config", config)
    assert (result.code, result.out) == (0, "")
    result = cli("spend", "--file", tmp_path / "none.db")
    assert (result.code, result.out) == (3, "")
    assert "none.db does not exist" in result.err
    assert not (tmp_path / "none.db").exists()
    assert cli("spend").code == 3
    (tmp_path / "text.db").write_text("no ledger " * 100)
    assert cli("spend", "--file", tmp_path / "text.db").code == 3


def test_a_day_that_is_none_is_code_2(cli, book):
    result = cli("spend", "--file", book, "--day", "monday")
    assert result.code == 2
    assert "--day: `monday` is not a day such as 2026-11-25" in result.err


def test_explain_takes_a_budget_and_reads_the_ledger(cli, book, tmp_path):
    config = tmp_path / "hybrid.yaml"
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nname: p\nobjectives: {budget: 1 USD/day}\nrules:\n"
        "  - exclude: edge\n    when: has(budget.left) && budget.left < 0.1\n    because: nearly nothing is left\n"
    )
    config.write_text(
        "version: 1\npolicy: policy.yaml\nspend: {file: spend.db}\n"
        "backends: {edge: {kind: onnx, price_per_1k_tokens: 0.001}}\n"
    )
    result = cli("explain", "hello", "--config", config, "--signal", "budget.left=0.05")
    assert "nearly nothing is left" in result.out
    assert "hello" not in result.out
