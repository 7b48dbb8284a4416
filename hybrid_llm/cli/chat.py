"""`hybrid-llm generate`: one prompt, one answer, shown as it comes.

`hybrid-llm chat`: a conversation in the terminal. It keeps the turns; routing and answering are the library's.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from typing import Final

from hybrid_llm.cli.arguments import (
    Subcommand,
    add_config,
    add_json,
    add_prompt,
    add_request_options,
    add_sampling_options,
    describe,
    read_prompt,
    request_options,
)
from hybrid_llm.cli.session import Session
from hybrid_llm.cli.terminal import Exit, generation_record, note, print_error, print_json, write
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import GenerateOptions, Message


def generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the help."""
    describe(
        parser,
        "Answer a prompt. The answer streams to standard output; everything else goes to standard error.",
        examples=[
            "hybrid-llm generate \"Is this review positive? 'A warm, funny film.'\"",
            "hybrid-llm generate - --privacy phi --max-tokens 64 < note.txt",
            "hybrid-llm generate 'What is 17 + 25?' --config hybrid.yaml --deadline 2 --json",
        ],
        codes=Exit,
    )
    add_prompt(parser)
    add_config(parser)
    add_request_options(parser)
    add_sampling_options(parser)
    add_json(parser)
    parser.add_argument("--verbose", "-v", action="store_true", help="decision and timings on standard error")


def run_generate(args: argparse.Namespace) -> int:
    """Answer, and show the answer."""
    prompt, options = read_prompt(args.prompt), request_options(args)
    with Session(args.config) as session:
        if args.json:
            print_json(generation_record(session.ask(prompt, options, on_text=_drop)))
            return Exit.OK
        told = _tell if args.verbose else _drop
        generation = session.ask(prompt, options, on_text=write, on_decision=told)
        write("\n")
        if args.verbose:
            note(timings_line(generation))
    return Exit.OK


def _drop(_: object) -> None:
    """Show nothing."""


def _tell(decision: Decision) -> None:
    note(decision.explain())


def timings_line(generation: Generation) -> str:
    """Who answered, how fast and how much, in one line."""
    usage, timings = generation.usage, generation.timings
    speed = f", {1000 / timings.tpot_ms:.0f} tokens/s" if timings.tpot_ms > 0 else ""
    return (
        f"{generation.backend}: {usage.prompt_tokens} + {usage.completion_tokens} tokens, "
        f"first after {timings.ttft_ms:.0f} ms{speed}, {timings.total_ms:.0f} ms in all, {generation.finish_reason}"
    )


_HELP: Final = """/exit            leave (as Ctrl-D does)
/reset           forget the conversation
/why             explain where the last message went
/privacy TAG...  tags for all further messages; without TAG, none
/help            this list"""


def chat_arguments(parser: argparse.ArgumentParser) -> None:
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


def run_chat(args: argparse.Namespace) -> int:
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


generate = Subcommand(generate_arguments, run_generate)
chat = Subcommand(chat_arguments, run_chat)
