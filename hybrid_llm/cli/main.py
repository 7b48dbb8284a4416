"""The entry point `hybrid-llm`: picks the command, and turns every ending into an exit code. It does no work itself.

Only the module of the chosen command is imported, so `hybrid-llm --help` costs little more than Python.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, Protocol, cast

from hybrid_llm import __version__
from hybrid_llm.cli.arguments import describe
from hybrid_llm.cli.terminal import Exit, exit_for, note, print_error
from hybrid_llm.core.errors import HybridLLMError

COMMANDS: Final = {
    "demo": ("hybrid_llm.cli.demo.command", "see the whole way of a request, with two nodes and an edge model"),
    "generate": ("hybrid_llm.cli.chat:generate", "answer a prompt"),
    "chat": ("hybrid_llm.cli.chat:chat", "talk, turn by turn"),
    "explain": ("hybrid_llm.cli.explain", "tell who would answer a prompt, and why"),
    "signals": ("hybrid_llm.cli.signals", "show what a policy sees of this device now"),
    "calibrate": ("hybrid_llm.cli.calibrate", "measure how fast backends are, for their first predictions"),
    "spend": ("hybrid_llm.cli.spend", "show what each tenant has spent on each day"),
    "policy": ("hybrid_llm.cli.policy.command", "check, try, prove and compare policies"),
    "models": ("hybrid_llm.cli.models", "list, inspect and convert edge models"),
    "serve": ("hybrid_llm.cli.serve", "run a cloud node"),
    "certs": ("hybrid_llm.cli.certs", "make and read certificates"),
    "doctor": ("hybrid_llm.cli.doctor", "test the installation, and say what to do"),
}
"""Name -> module and one line for the overview."""


class Command(Protocol):
    """What the module of a command offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options and the help."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; returns the exit code. Errors of the library may be left to `main`."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; *argv* is without the program's name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _forgive_encoding()
    try:
        code = _run(arguments)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return _broken_pipe()
    except ModuleNotFoundError as error:
        note(f"hybrid-llm: {error.name} is missing: pip install --upgrade hybrid-llm, then see `hybrid-llm doctor`")
        return Exit.FAILURE
    except (HybridLLMError, OSError) as error:
        print_error(error)
        return exit_for(error)
    return code


def _run(arguments: list[str]) -> int:
    parser = _overview()
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parsers = {
        name: commands.add_parser(name, help=summary, allow_abbrev=False) for name, (_, summary) in COMMANDS.items()
    }
    chosen = arguments[0] if arguments else ""
    command = _load(chosen, parsers[chosen]) if chosen in parsers else None
    try:
        args = parser.parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.OK
    if command is None:
        parser.print_help()
        return Exit.USAGE
    return command.run(args)


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hybrid-llm", allow_abbrev=False)
    describe(
        parser,
        "Answer on the device where it can be, in the cloud where it must be, as a policy says.",
        examples=[
            "hybrid-llm demo",
            "hybrid-llm generate \"Is this review positive? 'A warm, funny film.'\"",
            "hybrid-llm COMMAND --help",
        ],
        codes=Exit,
    )
    parser.add_argument("--version", action="version", version=f"hybrid-llm {__version__}")
    return parser


def _load(name: str, parser: argparse.ArgumentParser) -> Command:
    command = load_command(COMMANDS[name][0])
    command.add_arguments(parser)
    return command


def load_command(home: str) -> Command:
    """Import the command at *home*: a module, or `module:name` where one module holds several commands."""
    module, _, name = home.partition(":")
    loaded = importlib.import_module(module)
    return cast(Command, getattr(loaded, name) if name else loaded)


def _forgive_encoding() -> None:
    """A terminal that cannot show a character gets its escape, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _broken_pipe() -> Exit:
    """Python flushes standard output once more when it ends: give it somewhere to go."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        note("hybrid-llm: the reader of the output went away")
    return Exit.BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
