"""The examples of the integrations, and the blocks of their page, run as printed, with the real libraries."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.e2e.documents import BLOCKS, ROOT, Block, is_of_clients

LIBRARIES = {
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "pydantic_ai": "pydantic_ai",
    "litellm": "litellm",
    "llm": "llm",
}
SCRIPTS = sorted((ROOT / "examples" / "integrations").glob("*.py"))
PAGE = [block for block in BLOCKS if is_of_clients(block)]
CONFIG = """
version: 1
policy: balanced
defaults: {max_tokens: 40}
backends: {edge: {kind: onnx, model: embedded}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that the page assumes; the client of this process is made here, and then of no other file."""
    folder = tmp_path_factory.getbasetemp() / "page"
    folder.mkdir(exist_ok=True)
    (folder / "hybrid.yaml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    for name in ("HOME", "LLM_USER_PATH", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("HYBRID_LLM_CONFIG", "hybrid.yaml")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def need(text: str) -> None:
    """Skip what needs a library that is not installed."""
    for name, module in LIBRARIES.items():
        if f"hybrid_llm.integrations.{name}" in text or f"import {name}\n" in text:
            pytest.importorskip(module, reason="make clients")


def test_there_is_an_example_and_a_block_for_each_library() -> None:
    assert (len(SCRIPTS), len(PAGE)) == (len(LIBRARIES), len(LIBRARIES))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_runs(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need(script.read_text("utf-8"))
    runpy.run_path(str(script))
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("block", PAGE, ids=lambda block: block.name)
def test_a_block_of_the_page_runs(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    need(block.text)
    exec(compile(block.text, block.name, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.strip()
