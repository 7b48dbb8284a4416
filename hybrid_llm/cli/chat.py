"""`hybrid-llm chat`: a conversation in the terminal. It keeps the turns; routing and answering are the library's."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Final

from hybrid_llm.cli.arguments import (
    add_config,
    add_request_options,
    add_sampling_options,
    describe,
    request_options,
)
from hybrid_llm.cli.exits import Exit
from hybrid_llm.cli.generate import timings_line
from hybrid_llm.cli.output import note, print_error, write
from hybrid_llm.cli.session import Session
from hybrid_llm.router.errors import HybridLLMError
from hybrid_llm.router.types import Decision, GenerateOptions, Message

__all__ = ["add_arguments", "run"]

_HELP: Final = """/exit            leave (as Ctrl-D does)
/reset           forget the conversation
/why             explain where the last message went
/privacy TAG...  tags for all further messages; without TAG, none
/help            this list"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        f"Talk, turn by turn. Ctrl-C stops an answer. Within the conversation:\n\n{_HELP}",
        examples=["hybrid-llm chat", "hybrid-llm chat --config hybrid.yaml --privacy phi --system 'Answer briefly.'"],
        codes=Exit,
    )
    add_config(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    add_request_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--verbose", "-v", action="store_true", help="timings on standard error after each answer")


def run(args: argparse.Namespace) -> int:
    """Talk until the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # its import alone gives `input` editing and history
    system = () if args.system is None else (Message(role="system", content=args.system),)
    with Session(args.config) as session:
        if sys.stdin.isatty():
            note("Ctrl-D or /exit leaves, /help lists the commands.")
        return Chat(session, request_options(args), system, verbose=args.verbose).run()


class Chat:
    """One conversation: the turns so far, and what the next request is sent with."""

    def __init__(
        self, session: Session, options: GenerateOptions, system: tuple[Message, ...], *, verbose: bool = False
    ) -> None:
        self._session = session
        self._options = options
        self._system = system
        self._verbose = verbose
        self._warned = False
        self._turns: list[Message] = []
        self._decision: Decision | None = None
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "/reset": self._reset,
            "/why": self._why,
            "/privacy": self._privacy,
            "/help": lambda _: note(_HELP),
        }

    def run(self) -> int:
        """Read and answer, line by line. A second Ctrl-C in a row leaves."""
        while True:
            try:
                if not self._step():
                    return Exit.OK
            except KeyboardInterrupt:
                if self._warned:
                    return Exit.INTERRUPTED
                note("\nCtrl-C again, Ctrl-D or /exit leaves.")
                self._warned = True

    def _step(self) -> bool:
        """Take one line; False at the end."""
        interactive = sys.stdin.isatty()
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                note("")
            return False
        self._warned = False
        if line != "/exit":
            self._take(line)
        return line != "/exit"

    def _take(self, line: str) -> None:
        if line.startswith("/"):
            word, *rest = line.split()
            self._commands.get(word, self._unknown)(rest)
        elif line:
            self._answer(line)

    def _unknown(self, _: list[str]) -> None:
        note(f"there is no such command; there are:\n{_HELP}")

    def _reset(self, _: list[str]) -> None:
        self._turns.clear()
        self._decision = None
        note("forgotten")

    def _why(self, _: list[str]) -> None:
        note(self._decision.explain() if self._decision else "nothing has been asked yet")

    def _privacy(self, tags: list[str]) -> None:
        self._options = {**self._options, "privacy": frozenset(tags)}
        note(f"privacy: {', '.join(sorted(tags)) or 'no tags'}")

    def _answer(self, line: str) -> None:
        """Ask with all turns; a turn that fails or is stopped is not kept, so the next one starts clean."""
        asked = Message(role="user", content=line)
        try:
            generation = self._session.ask(
                [*self._system, *self._turns, asked], self._options, on_text=write, on_decision=self._remember
            )
        except KeyboardInterrupt:
            write("\n")
            note("stopped; this turn is not kept")
        except HybridLLMError as error:
            self._remember(getattr(error, "decision", self._decision))
            print_error(error)
        else:
            write("\n")
            self._turns += [asked, Message(role="assistant", content=generation.text)]
            if self._verbose:
                note(timings_line(generation))

    def _remember(self, decision: Decision | None) -> None:
        self._decision = decision
