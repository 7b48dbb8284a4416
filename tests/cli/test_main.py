"""The frame of the command line: overview, help, exit codes, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm.cli.main import COMMANDS
from hybrid_llm.cli.policy.command import ACTIONS
from hybrid_llm.cli.terminal import MEANING, Exit, exit_for
from hybrid_llm.core import errors

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *([name] for name in COMMANDS),
    *(["certs", action] for action in ("init", "issue", "inspect")),
    *(["policy", action] for action in ACTIONS),
    *(["models", action] for action in ("list", "inspect", "convert")),
]
FAMILY = {
    "InvalidRequest": Exit.USAGE,
    "ConfigError": Exit.CONFIG,
    "RoutingError": Exit.ROUTING,
    "BackendError": Exit.BACKEND,
    "SecurityError": Exit.SECURITY,
}


def kinds_of_error():
    return [getattr(errors, name) for name in errors.__all__ if name != "HybridLLMError"]


@pytest.mark.parametrize("kind", kinds_of_error())
def test_every_error_of_the_library_has_the_code_of_its_family(kind):
    family = next(base.__name__ for base in kind.__mro__ if base.__name__ in FAMILY)
    assert exit_for(kind.__new__(kind)) is FAMILY[family]


def test_an_error_without_a_family_is_another_failure():
    assert exit_for(errors.HybridLLMError("closed")) is Exit.FAILURE
    assert exit_for(OSError("disk full")) is Exit.FAILURE


def test_every_code_has_a_meaning_and_the_documentation_has_the_same_table():
    assert set(MEANING) == set(Exit)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code, meaning in MEANING.items():
        assert f"| {int(code)} | {meaning} |" in page


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_help_shows_an_example_and_the_exit_codes(cli, page):
    result = cli(*page, "--help")
    assert result.code == 0
    assert f"hybrid-llm {page[0]}" in result.out.split("examples:")[1]
    assert "exit codes:\n  0 " in result.out


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_the_documentation_names_every_command(page):
    assert f"hybrid-llm {' '.join(page)}" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_overview_lists_every_command_and_imports_none_of_them():
    program = (
        "import sys; from hybrid_llm.cli.main import main, COMMANDS; code = main(['--help'])\n"
        "heavy = {'numpy', 'grpc', 'torch', 'onnxruntime', 'cryptography', 'yaml', 'asyncio', 'tokenizers'}\n"
        "print(code, sorted(heavy & set(sys.modules)), [m for m, _ in COMMANDS.values() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "0 [] []"
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ") and line.strip()}
    assert set(COMMANDS) <= listed


def test_without_a_command_the_overview_is_shown_and_the_code_is_that_of_a_wrong_usage(cli):
    result = cli()
    assert result.code == 2
    assert "doctor" in result.out


def test_an_unknown_command_or_option_is_a_wrong_usage(cli):
    assert cli("generat", "x").code == 2
    assert cli("generate", "x", "--privcy", "phi").code == 2


def test_version_is_told(cli):
    assert cli("--version").out.startswith("hybrid-llm ")


def test_a_file_that_cannot_be_written_is_one_message(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("certs", "init", tmp_path / "file" / "certs")
    assert result.code in (1, 3)
    assert result.err.startswith("hybrid-llm: ")
    assert "Traceback" not in result.err
