"""How commands are declared, and the options that several of them share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO, TypeVar, cast

from hybrid_llm.cli.terminal import MEANING, Exit, note
from hybrid_llm.core.database import DatabaseAddress
from hybrid_llm.core.errors import ConfigError, InvalidRequest
from hybrid_llm.core.files import scheme_of
from hybrid_llm.core.request import GenerateOptions, Location
from hybrid_llm.core.secret import Secret, has_password

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Detector
    from hybrid_llm.policies import Policy
    from hybrid_llm.router.config import Config

T = TypeVar("T")
DATABASE_FORMS: Final = "postgresql://USER@HOST/DATABASE, or file:PATH or env:NAME of such a URL"
POLICY_HELP: Final = "a policy file or the name of a built-in policy"
_DEFAULT_BACKENDS: Final[Mapping[str, Location]] = {"edge": Location.EDGE, "cloud": Location.CLOUD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: its help, its options and the function that runs it.

    Attributes:
        about: the description in `--help`.
        run: does the work and returns the exit code. Errors of the library are left to `main`.
        options: adds the options to a parser.
        examples: command lines shown in `--help`; the tests parse every one.
        codes: the exit codes besides 0 and 2.
        meanings: what a code means for this command, where that is more precise than `terminal.MEANING`.
    """

    about: str
    run: Callable[[argparse.Namespace], int]
    options: Callable[[argparse.ArgumentParser], None] = lambda _: None
    examples: Sequence[str]
    codes: Collection[Exit] = ()
    meanings: Mapping[Exit, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A command that only has sub-commands.

    Attributes:
        commands: name -> where the `Command` or `Group` is, as `module:NAME`, and one line for the overview. The
            module is imported only if the command is chosen.
    """

    about: str
    commands: Mapping[str, tuple[str, str]]
    examples: Sequence[str]
    codes: Collection[Exit] = ()
    meanings: Mapping[Exit, str] = field(default_factory=dict)


def describe(parser: argparse.ArgumentParser, command: Command | Group) -> None:
    """Set the help text of *parser*: description, examples and exit codes."""
    lines = ["examples:", *(f"  {example}" for example in command.examples), "", "exit codes:"]
    for code in sorted({Exit.OK, Exit.USAGE, *command.codes}):
        lines.append(f"  {code:<4}{command.meanings.get(code, MEANING[code])}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = command.about
    parser.epilog = "\n".join(lines)


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """*parse* as a `type` of argparse: the text of a `ValueError` becomes the message."""

    def checked_parse(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked_parse


def at_least(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """A `type` of argparse: a whole number from *minimum* to *maximum*."""

    def number(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{value} is less than {minimum}")
        if maximum is not None and value > maximum:
            raise argparse.ArgumentTypeError(f"{value} is greater than {maximum}")
        return value

    return number


def seconds(least: float = 0.0, most: float = 86_400.0) -> Callable[[str], float]:
    """A `type` of argparse: a finite number of seconds from *least* to *most*."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:  # nor is NaN
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to {most:g} seconds")
        return value

    return number


def add_config(parser: argparse._ActionsContainer) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="hybrid.yaml; default: the file in HYBRID_LLM_CONFIG, else the default model alone",
    )


def read_config(given: Path | None) -> Config | None:
    """The configuration of `--config`, else the one that the environment names; None if there is neither."""
    from hybrid_llm.core.environment import log_unknown_variables
    from hybrid_llm.router.config import environment_config, load_config

    config = environment_config() if given is None else load_config(given)
    log_unknown_variables(() if config is None else config.variables)
    return config


def read_config_or_default(given: Path | None) -> Config:
    """The configuration of `read_config`, else the default model alone."""
    from hybrid_llm.router.config import default_config

    return read_config(given) or default_config()


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document, for programs")


def secret_url(text: str) -> Secret | str:
    """A URL that may hold a password: as it stands, or where it is found, as `env:NAME` or `file:PATH`."""
    if has_password(text):
        note("a password on the command line is shown to every user of this machine: write file:PATH or env:NAME")
    return checked(Secret.parse)(text) or text


def database(text: str) -> DatabaseAddress:
    """Where a database is: a path, a URL, or where the URL is found."""
    found = secret_url(text)
    return Path(found) if isinstance(found, str) and not scheme_of(found) else found


def add_verbose(parser: argparse.ArgumentParser, about: str) -> None:
    """Add `--verbose`."""
    parser.add_argument("--verbose", "-v", action="store_true", help=about)


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add `--log-format`."""
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="json: one object a line, for collectors (text)"
    )


def add_prompt(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the prompt."""
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs=None if required else "?", help="the prompt; - reads it from standard input"
    )


def add_request_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that policies read: privacy tags, limits, task, tenant."""
    parser.add_argument("--privacy", action="append", default=[], metavar="TAG", help="a privacy tag; repeatable")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="maximum tokens of the answer")
    parser.add_argument("--deadline", type=float, metavar="S", help="seconds until the answer must be complete")
    parser.add_argument("--priority", type=int, metavar="N", help="0 to 9, as far as the rights file of nodes allows")
    parser.add_argument("--task", metavar="NAME", help="what the request is for; policies can read it")
    parser.add_argument("--tenant", metavar="NAME", help="tenant to bill")
    parser.add_argument("--session-id", metavar="ID", help="conversation that the request belongs to")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="JSON Schema that the answer must match")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--temperature", type=float, metavar="T", help="0 is greedy; default: the model's own, else 0")
    group.add_argument("--top-p", type=float, metavar="P", help="nucleus sampling, 0 to 1")
    group.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens; 0 disables it")
    group.add_argument("--min-p", type=float, metavar="P", help="minimum probability relative to the most likely token")
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="1 disables it")
    for name in ("presence", "frequency"):
        group.add_argument(f"--{name}-penalty", type=float, metavar="R", help="of tokens of the answer; 0 disables it")
    group.add_argument("--seed", type=int, metavar="N", help="seed of the random numbers")
    group.add_argument("--stop", action="append", metavar="TEXT", help="text that ends the answer; repeatable")


def request_options(args: argparse.Namespace) -> GenerateOptions:
    """The request options on the command line, as `generate` takes them."""
    names = GenerateOptions.__annotations__
    given = {name: value for name, value in vars(args).items() if name in names and value not in (None, [])}
    if args.privacy:
        given["privacy"] = frozenset(args.privacy)
    if args.schema is not None:
        given["output_schema"] = read_text(args.schema)
    return cast(GenerateOptions, given)


def read_prompt(prompt: str) -> str:
    """The prompt, read from standard input if it is `-`.

    Raises:
        InvalidRequest: standard input is closed or not UTF-8.
    """
    if prompt != "-":
        return prompt
    try:
        return standard_input().buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"prompt: standard input is not UTF-8 at byte {error.start}"
        raise InvalidRequest(message, field="prompt") from None


def standard_input() -> TextIO:
    """Standard input; InvalidRequest if it is closed, as after `<&-`."""
    if sys.stdin is None or sys.stdin.closed:
        message = "prompt: standard input is closed; connect it, to a pipe or a file for example, or pass a PROMPT"
        raise InvalidRequest(message, field="prompt")
    return sys.stdin


def read_text(path: Path) -> str:
    """The text of a file that the user named; raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", path=str(path)) from None


def add_backend(parser: argparse._ActionsContainer) -> None:
    """Add `--backend`."""
    parser.add_argument(
        "--backend",
        action="append",
        default=[],
        metavar="NAME=LOCATION",
        help="assume this backend (LOCATION is edge or cloud); repeatable; default: edge and cloud",
    )


def add_backends(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--backend`: the backends that a policy is read for."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--config", type=Path, metavar="FILE", help="take the backends from this hybrid.yaml")
    add_backend(group)


def parse_backends(texts: Sequence[str]) -> Mapping[str, Location]:
    """Read `NAME=edge` and `NAME=cloud`; without any, the backends `edge` and `cloud`.

    Raises:
        InvalidRequest: another form, or another location.
    """
    return dict(_parse_backend(text) for text in texts) or _DEFAULT_BACKENDS


def _parse_backend(text: str) -> tuple[str, Location]:
    name, _, location = text.partition("=")
    try:
        return name, Location(location or name)
    except ValueError:
        raise InvalidRequest(f"--backend: {text!r} is not NAME=edge or NAME=cloud", field="backend") from None


def policy_loader(args: argparse.Namespace, default: Mapping[str, Location] | None = None) -> Callable[[str], Policy]:
    """Loads policies for the backends and detectors that the options of `add_backends` name, else for *default*."""
    if args.config is None:
        backends = default if default and not args.backend else parse_backends(args.backend)
        return partial(load_named_policy, backends=backends)
    from hybrid_llm.router.config import load_config

    config = load_config(args.config)
    return partial(load_named_policy, backends=config.locations, detectors=config.detector_names)


def open_detectors(args: argparse.Namespace) -> tuple[Detector, ...]:
    """The detectors of the configuration that `--config` names; none without one."""
    if args.config is None:
        return ()
    from hybrid_llm.router.config import load_config

    return load_config(args.config).open_detectors()


def load_named_policy(name: str, backends: Mapping[str, Location], detectors: frozenset[str] = frozenset()) -> Policy:
    """Load a built-in policy or a policy file; raises `PolicyError` with every error.

    *detectors* are the names that it may use besides those of the built-in detectors.
    """
    from hybrid_llm.policies import KNOWN_DETECTORS, builtin_names, builtin_policy
    from hybrid_llm.policies.load import read_policy

    if name in builtin_names():
        return builtin_policy(name, backends=backends)
    return read_policy(Path(name), backends, detectors=KNOWN_DETECTORS | detectors)


def policy_text(name: str, suffix: str = ".yaml") -> str:
    """The text of a built-in policy (or of its cases, with *suffix* `.test.yaml`), or of the file *name*."""
    from hybrid_llm.policies import builtin_names

    if name in builtin_names():
        return (files("hybrid_llm.policies") / "builtin" / f"{name}{suffix}").read_text("utf-8")
    return read_text(Path(name))
