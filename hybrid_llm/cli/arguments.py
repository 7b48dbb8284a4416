"""What the commands' options have in common: help texts, the options of a request, reading of files. No command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from hybrid_llm.cli.terminal import MEANING, Exit
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.core.request import GenerateOptions

_REQUEST_NAMES = (
    "max_tokens",
    "deadline",
    "task",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "session_id",
    "tenant",
)


class Subcommands(Protocol):
    """What `argparse` returns for sub-commands, as far as it is used here."""

    def add_parser(self, name: str, *, help: str, allow_abbrev: bool) -> argparse.ArgumentParser:  # noqa: A002
        """Add a sub-command."""
        ...


def describe(
    parser: argparse.ArgumentParser,
    about: str,
    *,
    examples: Sequence[str],
    codes: Iterable[Exit],
    meanings: Mapping[Exit, str] = MEANING,
) -> None:
    """Give *parser* its text: what it does, examples, and the exit codes that it can end with.

    *meanings* says what a code means for this command, where that is more precise than for all.
    """
    shown = sorted({Exit.OK, Exit.USAGE, *codes})
    lines = ["examples:", *(f"  {example}" for example in examples), "", "exit codes:"]
    lines += [f"  {code:<4}{meanings.get(code, MEANING[code])}" for code in shown]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = about
    parser.epilog = "\n".join(lines)


def subcommands(parser: argparse.ArgumentParser, dest: str) -> Subcommands:
    """Begin the sub-commands of *parser*; one of them must be given."""
    return cast(Subcommands, parser.add_subparsers(dest=dest, required=True, metavar="COMMAND", title="commands"))


def add_config(parser: argparse._ActionsContainer) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="hybrid.yaml; without it the file in HYBRID_LLM_CONFIG, else the embedded model alone",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")


def add_prompt(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """Add the prompt."""
    about = "the text to answer; - reads it from standard input"
    parser.add_argument("prompt", metavar="PROMPT", nargs=None if needed else "?", help=about)


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add what a policy looks at: privacy tags, limits, task, tenant."""
    parser.add_argument("--privacy", action="append", default=[], metavar="TAG", help="a privacy tag; may be repeated")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of the answer")
    parser.add_argument("--deadline", type=float, metavar="S", help="seconds until the whole answer must be there")
    parser.add_argument("--task", metavar="NAME", help="what the request is for, as policies see it")
    parser.add_argument("--tenant", metavar="NAME", help="on whose account")
    parser.add_argument("--session-id", metavar="ID", help="the conversation that this belongs to")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="JSON Schema that the answer must follow")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add how the next token is drawn."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy, the default")
    group.add_argument("--top-p", type=float, metavar="P", help="nucleus sampling, 0 to 1")
    group.add_argument("--top-k", type=int, metavar="K", help="keep this many of the likeliest tokens; 0 keeps all")
    group.add_argument("--min-p", type=float, metavar="P", help="keep tokens this fraction as likely as the likeliest")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="1 is off")
    group.add_argument("--seed", type=int, metavar="N", help="same seed, same draw")
    group.add_argument("--stop", action="append", metavar="TEXT", help="ends the answer; may be repeated")


def request_options(args: argparse.Namespace) -> GenerateOptions:
    """The options of a request that were given, as `generate` takes them."""
    found: dict[str, Any] = {name: getattr(args, name, None) for name in _REQUEST_NAMES}
    given = {name: value for name, value in found.items() if value is not None}
    if args.privacy:
        given["privacy"] = frozenset(args.privacy)
    if getattr(args, "schema", None) is not None:
        given["output_schema"] = read_text(args.schema)
    return cast(GenerateOptions, given)


def read_prompt(prompt: str) -> str:
    """The prompt itself, or standard input where it is `-`.

    Raises:
        InvalidRequest: standard input is not UTF-8.
    """
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"prompt: standard input is not UTF-8 at byte {error.start}"
        raise InvalidRequest(message, field="prompt") from None


def read_text(path: Path) -> str:
    """The text of a file that the user named; raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8", path=str(path)) from None


@dataclass(frozen=True, slots=True)
class Subcommand:
    """One of several commands that share a module."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
