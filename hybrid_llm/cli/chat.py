"""`hybrid-llm generate` and `hybrid-llm chat`: stream answers to the terminal until they end or Ctrl-C stops them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from math import exp
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from hybrid_llm.cli import arguments
from hybrid_llm.cli.terminal import Exit, Progress, end_line, note, print_error, print_json, shown_log, write
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import FinishReason, Generation
from hybrid_llm.core.request import GenerateOptions, Message, Prompt
from hybrid_llm.router.default import open_client

_PATIENCE_S: Final = 1.0
"""Seconds without a token after which a terminal shows that the answer is being waited for."""
_HELP: Final = """/exit            leave (as Ctrl-D does)
/reset           forget the conversation
/why             explain how the last message was routed
/privacy TAG...  privacy tags of all further messages; without TAG, none
/help            show this list"""

T = TypeVar("T")


def _ignore(_: object) -> None:
    """Show nothing."""


class Session:
    """A client and its event loop: one answer at a time, stopped by Ctrl-C.

    It uses the client's async methods, because cancelling a task reaches a backend even in the middle of a long prompt.
    """

    def __init__(self, config: Path | None) -> None:
        """Open the client of *config*, else the one that the environment names, else that of the default model."""
        self.client = open_client(config, serve_metrics=False)
        self._runner = asyncio.Runner()
        self._shown: set[str] = set()

    def show_notice(self, generation: Generation) -> None:
        """Show on a terminal what a reader must know of the backend that answered, once, and of the answer."""
        if generation.notice and generation.notice not in self._shown and sys.stderr.isatty():
            self._shown.add(generation.notice)
            note(f"note: {generation.notice}")
        for warning in generation.warnings if sys.stderr.isatty() else ():
            note(f"warning: the model changed {warning.count} pseudonyms ({warning.kind}) beyond repair")

    def ask(
        self,
        prompt: Prompt,
        options: GenerateOptions,
        *,
        on_text: Callable[[str], None],
        on_decision: Callable[[Decision], None] = _ignore,
    ) -> Generation:
        """Stream the answer to *on_text*; KeyboardInterrupt stops the backend before it is raised."""

        async def stream_answer() -> Generation:
            async with self.client.astream(prompt, **options) as stream:
                on_decision(stream.decision)
                with _waiting(stream.decision) as arrived, _line_ended(on_text) as on_chunk:
                    async for chunk in stream:
                        arrived()
                        on_chunk(chunk.text)
                return stream.generation

        return self._runner.run(stream_answer())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do *work* with the client; KeyboardInterrupt cancels it before it is raised."""
        return self._runner.run(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._runner.run(self.client.aclose())
        finally:
            self._runner.close()


@contextlib.contextmanager
def _waiting(decision: Decision) -> Iterator[Callable[[], None]]:
    """Show on a terminal that the first token is awaited; yields what must be called when a chunk arrives."""
    progress = Progress(f"waiting for {decision.first}" if decision.first else "waiting")
    show = partial(progress.phase, "loading the model or processing the prompt", live_only=True)
    timer = asyncio.get_running_loop().call_later(_PATIENCE_S, show)

    def arrived() -> None:
        timer.cancel()
        progress.clear()

    try:
        yield arrived
    finally:
        arrived()


@contextlib.contextmanager
def _line_ended(on_text: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Yields *on_text*; an error after some text first ends the line, so that its message has a line of its own."""
    texts = 0

    def on_chunk(text: str) -> None:
        nonlocal texts
        texts += bool(text)
        on_text(text)

    try:
        yield on_chunk
    except HybridLLMError:
        if texts:
            on_text("\n")
        raise


def _generate_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_prompt(parser)
    arguments.add_config(parser)
    arguments.add_request_options(parser)
    arguments.add_sampling_options(parser)
    parser.add_argument(
        "--logprobs",
        type=int,
        metavar="N",
        help="after the answer, print its tokens with their probabilities and the N likeliest alternatives, 0 to 20",
    )
    arguments.add_json(parser)
    arguments.add_verbose(parser, "print decision, timings and every event of the log to standard error")


def _generate(args: argparse.Namespace) -> int:
    prompt, options = arguments.read_prompt(args.prompt), arguments.request_options(args)
    with shown_log(verbose=args.verbose), Session(args.config) as session:
        if args.json:
            answer = session.ask(prompt, options, on_text=_ignore)
            print_json(answer.to_dict())
            return Exit.OK
        on_decision = (lambda decision: note(decision.explain())) if args.verbose else _ignore
        generation = session.ask(prompt, options, on_text=write, on_decision=on_decision)
        end_line()
        session.show_notice(generation)
        for line in _tokens(generation):
            note(line)
        _report(generation, verbose=args.verbose)
    return Exit.OK


def _tokens(generation: Generation) -> Iterator[str]:
    """The tokens of an answer, a line each: probability, text, and the others that were likeliest."""
    for token in generation.logprobs:
        others = [f"{each.token!r} {exp(each.logprob):.1%}" for each in token.top if each.bytes != token.bytes]
        yield f"{exp(token.logprob):7.1%}  {token.token!r:16} {', '.join(others)}".rstrip()


def _report(generation: Generation, *, verbose: bool) -> None:
    """What a reader of the answer must know, and with *verbose* how it was made."""
    if generation.finish_reason is FinishReason.LENGTH:
        tokens = generation.usage.completion_tokens
        note(f"the answer was cut off after {tokens} tokens: --max-tokens or the context window is reached")
    if generation.finish_reason is FinishReason.REPETITION:
        note("the answer was stopped: the model repeated itself; --temperature 0.3 may help")
    if verbose:
        note(_timings(generation))


def _timings(generation: Generation) -> str:
    """Backend, tokens and timings of an answer, in one line."""
    usage, timings = generation.usage, generation.timings
    speed = f", {1000 / timings.tpot_ms:.0f} tokens/s" if timings.tpot_ms > 0 else ""
    return (
        f"{generation.backend}: {usage.prompt_tokens} + {usage.completion_tokens} tokens, "
        f"first token after {timings.ttft_ms:.0f} ms{speed}, {timings.total_ms:.0f} ms in total, "
        f"finish reason {generation.finish_reason}"
    )


GENERATE: Final = arguments.Command(
    about="Answer a prompt. The answer is streamed to standard output; everything else goes to standard error.",
    options=_generate_options,
    run=_generate,
    examples=(
        "hybrid-llm generate \"Is this review positive? 'A warm, funny film.'\"",
        "hybrid-llm generate - --privacy phi --max-tokens 64 < note.txt",
        "hybrid-llm generate 'What is 17 + 25?' --config hybrid.yaml --deadline 2 --json",
        "hybrid-llm generate 'What is 17 + 25?' --logprobs 3",
    ),
    codes=tuple(code for code in Exit if code is not Exit.VIOLATED),
)


def _chat_options(parser: argparse.ArgumentParser) -> None:
    arguments.add_config(parser)
    parser.add_argument("--system", metavar="TEXT", help="system message")
    arguments.add_request_options(parser)
    arguments.add_sampling_options(parser)
    arguments.add_verbose(parser, "print timings and every event of the log to standard error")


def _chat(args: argparse.Namespace) -> int:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # importing it gives `input` editing and history
    interactive = arguments.standard_input().isatty()
    system = () if args.system is None else (Message(role="system", content=args.system),)
    with shown_log(verbose=args.verbose), Session(args.config) as session:
        if interactive:
            note("Ctrl-D or /exit leaves, /help lists the commands.")
        return Chat(session, arguments.request_options(args), system, verbose=args.verbose).run()


class Chat:
    """One conversation: its turns, and the options of its next request."""

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

    def run(self) -> int:
        """Read and answer line by line. A second Ctrl-C in a row leaves."""
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
        """Handle one line; False at the end of the conversation."""
        interactive = sys.stdin.isatty()
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                note("")
            return False
        self._warned = False
        if line.startswith("/") and line != "/exit":
            self._command(*line.split())
        elif line != "/exit" and line:
            self._answer(line)
        return line != "/exit"

    def _command(self, word: str, *tags: str) -> None:
        match word:
            case "/reset":
                self._turns.clear()
                self._decision = None
                note("conversation forgotten")
            case "/why":
                note(self._decision.explain() if self._decision else "no message has been sent yet")
            case "/privacy":
                self._options = {**self._options, "privacy": frozenset(tags)}
                note(f"privacy: {', '.join(sorted(tags)) or 'no tags'}")
            case "/help":
                note(_HELP)
            case _:
                note(f"unknown command; the commands are:\n{_HELP}")

    def _answer(self, line: str) -> None:
        """Send all turns. A turn that fails or is stopped is dropped, so that the next one starts clean."""
        question = Message(role="user", content=line)
        try:
            generation = self._session.ask(
                [*self._system, *self._turns, question], self._options, on_text=write, on_decision=self._remember
            )
        except KeyboardInterrupt:
            write("\n")
            note("stopped; this turn was dropped")
        except HybridLLMError as error:
            self._remember(getattr(error, "decision", self._decision))
            print_error(error)
        else:
            end_line()
            self._turns += [question, Message(role="assistant", content=generation.text)]
            self._session.show_notice(generation)
            _report(generation, verbose=self._verbose)

    def _remember(self, decision: Decision | None) -> None:
        self._decision = decision


CHAT: Final = arguments.Command(
    about=f"Hold a conversation. Ctrl-C stops an answer. Commands in the conversation:\n\n{_HELP}",
    options=_chat_options,
    run=_chat,
    examples=(
        "hybrid-llm chat",
        "hybrid-llm chat --config hybrid.yaml --privacy phi --system 'Answer briefly.'",
    ),
    codes=(Exit.CONFIG, Exit.INTERRUPTED),
)
