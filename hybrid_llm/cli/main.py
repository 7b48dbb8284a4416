"""The entry point `hybrid-llm`: parses the command line, runs the command and turns every ending into an exit code.

Only the module of the chosen command is imported, so `hybrid-llm --help` costs little more than Python.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Final, NoReturn, cast

from hybrid_llm import __version__
from hybrid_llm.cli.arguments import Command, Group, describe
from hybrid_llm.cli.json_stderr import asks_for_json, json_stderr
from hybrid_llm.cli.terminal import Exit, exit_for, note, print_error
from hybrid_llm.core.errors import HybridLLMError

PROGRAM: Final = Group(
    about="Route each LLM request to a model on this device or in the cloud, as a policy decides.",
    commands={
        "demo": ("hybrid_llm.cli.demo:DEMO", "run every kind of request against two nodes and an edge model"),
        "generate": ("hybrid_llm.cli.chat:GENERATE", "answer a prompt"),
        "chat": ("hybrid_llm.cli.chat:CHAT", "hold a conversation in the terminal"),
        "task": ("hybrid_llm.cli.task:TASK", "summarise, translate, classify, extract from or answer about a text"),
        "explain": ("hybrid_llm.cli.explain:EXPLAIN", "show which backend would answer a prompt, and why"),
        "signals": ("hybrid_llm.cli.signals:SIGNALS", "show the signals that policies read, live"),
        "calibrate": ("hybrid_llm.cli.calibrate:CALIBRATE", "measure the speed of backends for latency predictions"),
        "spend": ("hybrid_llm.cli.spend:SPEND", "show spending per tenant and day"),
        "cache": ("hybrid_llm.cli.cache:CACHE", "show and clear the cache of answers on disk"),
        "policy": ("hybrid_llm.cli.policy:POLICY", "check, test, verify, simulate and compare policies"),
        "config": ("hybrid_llm.cli.policy.files:CONFIG", "print the JSON Schema of hybrid.yaml"),
        "models": ("hybrid_llm.cli.models:MODELS", "add, choose, list, verify and convert models"),
        "gateway": ("hybrid_llm.cli.gateway:GATEWAY", "answer clients of the OpenAI and Anthropic APIs"),
        "mcp": ("hybrid_llm.cli.mcp:MCP", "serve hosts of the Model Context Protocol"),
        "serve": ("hybrid_llm.cli.serve:SERVE", "run a cloud node"),
        "rights": ("hybrid_llm.cli.rights:RIGHTS", "check and explain who may use a node or a gateway"),
        "audit": ("hybrid_llm.cli.audit:AUDIT", "make keys of audit logs, verify and show them"),
        "certs": ("hybrid_llm.cli.certs:CERTS", "create and inspect certificates"),
        "health": ("hybrid_llm.cli.health:HEALTH", "ask a node or a gateway whether it serves"),
        "doctor": ("hybrid_llm.cli.doctor:DOCTOR", "check the installation and suggest fixes"),
    },
    examples=(
        "hybrid-llm demo",
        "hybrid-llm generate \"Is this review positive? 'A warm, funny film.'\"",
        "hybrid-llm policy check policy.yaml",
    ),
    codes=tuple(Exit),
)


class _Closed(io.TextIOBase):
    """Standard output where it is closed, as after `>&-`: whoever prints learns that nobody reads it."""

    def write(self, _: str) -> int:
        raise OSError(errno.EBADF, "it is closed", "standard output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; *argv* excludes the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    with json_stderr() if asks_for_json(words) else nullcontext():
        return _ended(words)


def _ended(words: list[str]) -> int:
    """Run the command of *words*, and return the code for its ending."""
    sys.stdout = sys.stdout or _Closed()
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # closed when Python exits
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for characters that the terminal cannot encode
    try:
        code = _run(words)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _broken_pipe()
    except ModuleNotFoundError as error:
        note(f"hybrid-llm: {error.name} is missing: reinstall hybrid-llm, then run `hybrid-llm doctor`")
        return Exit.FAILURE
    except HybridLLMError as error:
        print_error(error)
        return exit_for(error)
    except OSError as error:
        print_error(OSError(f"{error.filename or 'reading or writing failed'}: {error.strerror or error}"))
        return Exit.FAILURE
    return code


def _run(words: list[str]) -> int:
    parser = build_parser(words)
    try:
        args, unknown = parser.parse_known_args(words)
        if unknown:
            _reject(args.parser, unknown)
    except SystemExit as end:  # argparse has printed the help or an error
        return end.code if isinstance(end.code, int) else Exit.OK
    args.words = words
    return int(args.run(args))


def _reject(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """End with the usage of the command that the arguments are *unknown* to, and the option that was meant."""
    from difflib import get_close_matches

    flag = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
    known = [option for action in parser._actions for option in action.option_strings]
    near = get_close_matches(flag, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the whole program, with the options of the command that *words* choose."""
    parser = argparse.ArgumentParser(prog="hybrid-llm", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hybrid-llm {__version__}")
    # Reading the metadata of all installed packages takes milliseconds, which a built-in command need not wait for.
    builtin = words[:1] and words[0] in PROGRAM.commands
    _configure(parser, PROGRAM if builtin else _with_packages(PROGRAM), words)
    return parser


def _with_packages(program: Group) -> Group:
    """*program* with the commands that packages declare in the entry-point group `hybrid_llm.commands`."""
    added = {
        entry.name: (entry.value, f"from the package {entry.dist.name if entry.dist else entry.module}")
        for entry in entry_points(group="hybrid_llm.commands")
    }
    return replace(program, commands={**program.commands, **added, **program.commands})


def _configure(parser: argparse.ArgumentParser, command: Command | Group, words: Sequence[str]) -> None:
    """Give *parser* the help and options of *command*; of sub-commands, only the chosen one is imported."""
    describe(parser, command)
    if isinstance(command, Command):
        command.options(parser)
        parser.set_defaults(run=command.run, parser=parser)
        return

    def show_overview(_: argparse.Namespace) -> int:
        parser.print_help()
        return Exit.USAGE

    parser.set_defaults(run=show_overview, parser=parser)
    children = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, (home, summary) in command.commands.items():
        child = children.add_parser(name, help=summary, allow_abbrev=False)
        if words[:1] == [name]:
            _configure(child, load_command(home), words[1:])


def load_command(home: str) -> Command | Group:
    """Import the command at *home*, `module:NAME`."""
    module, _, name = home.partition(":")
    return cast("Command | Group", getattr(importlib.import_module(module), name))


def _broken_pipe() -> Exit:
    # Python flushes standard output once more at exit: redirect it, or that raises again.
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        note("hybrid-llm: the reader of the output closed the pipe")
    return Exit.BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
