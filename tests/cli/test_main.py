"""The frame of the command line: overview, help, exit codes, and what importing it costs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm.cli.arguments import Group
from hybrid_llm.cli.main import PROGRAM, build_parser, load_command
from hybrid_llm.cli.terminal import MEANING, Exit, exit_for
from hybrid_llm.core import errors

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def all_commands(words=(), command=PROGRAM):
    """The words of every command and group, such as `("policy", "check")`, with its declaration."""
    yield words, command
    if isinstance(command, Group):
        for name, (home, _) in command.commands.items():
            yield from all_commands((*words, name), load_command(home))


COMMANDS = dict(all_commands())
PAGES = [words for words in COMMANDS if words]
LEAVES = [words for words in PAGES if not isinstance(COMMANDS[words], Group)]
EXAMPLES = [example for command in COMMANDS.values() for example in command.examples]
FAMILY = {
    "InvalidRequest": Exit.USAGE,
    "ConfigError": Exit.CONFIG,
    "RoutingError": Exit.ROUTING,
    "BackendError": Exit.BACKEND,
    "SecurityError": Exit.SECURITY,
    "ContentRefused": Exit.FAILURE,
    "AuditUnavailable": Exit.FAILURE,
    "ToolFailed": Exit.FAILURE,
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
    table = DOCS.split("## Exit codes")[1].split("##")[0]
    assert re.findall(r"^\| (\d+) \| (.+) \|$", table, flags=re.MULTILINE) == [
        (str(int(code)), meaning) for code, meaning in MEANING.items()
    ]


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_help_shows_an_example_and_the_exit_codes(cli, page):
    result = cli(*page, "--help")
    assert result.code == 0
    assert f"hybrid-llm {page[0]}" in result.out.split("examples:")[1]
    assert "exit codes:\n  0 " in result.out
    assert ("\n  7 " in result.out) == (page == ("policy", "verify"))


def test_the_table_of_the_documentation_lists_exactly_the_commands_of_the_parser():
    table = DOCS.split("| command | ")[1].split("##")[0]
    rows = re.findall(r"^\| `hybrid-llm ((?:[a-z]+(?:-[a-z]+)*\b ?)+)", table, flags=re.MULTILINE)
    assert sorted(tuple(row.split()) for row in rows) == sorted(LEAVES)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_a_help_text_parses(example):
    """As a shell would pass it: without redirections."""
    words = shlex.split(re.sub(r" [<>] \S+$", "", example))
    assert words[0] == "hybrid-llm"
    assert callable(build_parser(words[1:]).parse_args(words[1:]).run)


def test_the_overview_lists_every_command_and_imports_none_of_them():
    program = (
        "import sys; from hybrid_llm.cli.main import main, PROGRAM; code = main(['--help'])\n"
        "heavy = {'numpy', 'grpc', 'torch', 'onnxruntime', 'cryptography', 'yaml', 'asyncio', 'tokenizers', 'rich'}\n"
        "homes = {home.partition(':')[0] for home, _ in PROGRAM.commands.values()}\n"
        "print(code, sorted(heavy & set(sys.modules)), sorted(homes & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.splitlines()[-1] == "0 [] []"
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("    ") and line.strip()}
    assert set(PROGRAM.commands) <= listed


@pytest.mark.parametrize("page", [(), ("policy",), ("config",), ("models",), ("certs",)], ids=" ".join)
def test_without_a_command_the_overview_is_shown_and_the_code_is_that_of_a_wrong_usage(cli, page):
    result = cli(*page)
    assert result.code == 2
    assert all(name in result.out for name in COMMANDS[page].commands)


def test_an_unknown_command_or_option_is_a_wrong_usage(cli):
    assert cli("generat", "x").code == 2
    assert cli("generate", "x", "--privcy", "phi").code == 2


def test_version_is_printed(cli):
    assert cli("--version").out.startswith("hybrid-llm ")


def test_a_file_that_cannot_be_written_is_one_message(cli, tmp_path):
    (tmp_path / "file").write_text("")
    result = cli("certs", "init", tmp_path / "file" / "certs")
    assert result.code in (1, 3)
    assert result.err.startswith("hybrid-llm: ")
    assert "Traceback" not in result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_message_without_an_error_number(command):
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run([command, "policy", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("hybrid-llm: reading or writing failed: No space left on device\n")


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_an_unknown_option_shows_the_usage_of_its_command(words, capsys):
    """Also where something that is needed is missing, which is reported first."""
    from hybrid_llm.cli.main import main

    assert main([*words, "--no-such-option"]) == Exit.USAGE
    usage, _, message = capsys.readouterr().err.rpartition(f"hybrid-llm {' '.join(words)}: error: ")
    assert usage.startswith(f"usage: hybrid-llm {' '.join(words)} ")
    assert "--no-such-option" in message or "required" in message


def test_an_option_that_is_nearly_right_is_suggested(capsys):
    from hybrid_llm.cli.main import main

    assert main(["models", "tune", "--out", "x", "--stepz", "3"]) == Exit.USAGE
    assert "unrecognized arguments: --stepz 3; did you mean --steps?" in capsys.readouterr().err
    assert main(["models", "--stepz"]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("usage: hybrid-llm models ")
    assert main(["--stepz"]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("usage: hybrid-llm ")
