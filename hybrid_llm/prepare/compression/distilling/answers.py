"""A teacher's answers to prompts, each written down once it is there, so that none is paid for twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, Self

from hybrid_llm.backends.models.space import disk_errors
from hybrid_llm.core.errors import BackendError, HybridLLMError, RoutingError, SecurityError
from hybrid_llm.core.jsontext import parse_json
from hybrid_llm.prepare.step import Progress

_NAME: Final = "answers.jsonl"


class TeacherStopped(HybridLLMError):
    """The teacher gave no further answer; those before are stored. *answered* of *asked* are there."""

    def __init__(self, message: str, *, answered: int, asked: int) -> None:
        super().__init__(message)
        self.answered = answered
        self.asked = asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One conversation that ends with a turn of the user, as pairs of role and content."""

    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the teacher wrote to the prompt with that *number*; no text where the guard did not let the prompt go."""

    number: int
    text: str | None
    tokens: int = 0


class Teacher(Protocol):
    """What answers prompts."""

    def answer(self, prompt: Prompt) -> tuple[str | None, int]:
        """The text, None where the prompt must not leave, and the tokens that were written."""

    def close(self) -> None:
        """Release everything."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The file of the answers so far."""

    path: Path

    @classmethod
    def within(cls, scratch: Path) -> Self:
        """Those of a folder that outlives a kill."""
        scratch.mkdir(parents=True, exist_ok=True)
        return cls(scratch / _NAME)

    def read(self) -> Mapping[int, Answer]:
        """The answers by number. A last line that a kill has cut off is taken out of the file."""
        if not self.path.is_file():
            return {}
        whole, found = 0, {}
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            answer = Answer(**parse_json(line))
            found[answer.number] = answer
            whole += len(line)
        os.truncate(self.path, whole)
        return found

    def add(self, answer: Answer) -> None:
        """Write *answer* down, on the disk when it returns."""
        with disk_errors(self.path.parent, "then run it again: the answers so far stay"), self.path.open("ab") as file:
            file.write(json.dumps(asdict(answer), ensure_ascii=False).encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())


def collect(
    prompts: Sequence[Prompt],
    open_teacher: Callable[[], Teacher],
    answers: Answers,
    progress: Progress,
    *,
    most_tokens: int,
) -> Mapping[int, Answer]:
    """Ask the teacher what is not answered yet, until it has written *most_tokens* in all; 0 is no limit.

    Raises:
        TeacherStopped: it failed; run it again to go on.
        SecurityError: trust in the teacher is broken.
    """
    found = dict(answers.read())
    waiting = [number for number in range(len(prompts)) if number not in found]
    spent = sum(answer.tokens for answer in found.values())
    if not waiting or (most_tokens and spent >= most_tokens):
        return found
    teacher = open_teacher()
    try:
        for number in waiting:
            if most_tokens and spent >= most_tokens:
                break
            text, tokens = _asked(teacher, prompts[number], len(found), len(prompts))
            found[number] = Answer(number=number, text=text, tokens=tokens)
            answers.add(found[number])
            spent += tokens
            progress("the teacher answers", len(found) / len(prompts))
    finally:
        teacher.close()
    return found


def _asked(teacher: Teacher, prompt: Prompt, answered: int, asked: int) -> tuple[str | None, int]:
    try:
        return teacher.answer(prompt)
    except SecurityError:
        raise
    except (BackendError, RoutingError) as error:
        message = f"the teacher stopped after {answered} of {asked} answers ({type(error).__name__}: {error})"
        advice = "they are stored: mend the cause and run it again to go on"
        raise TeacherStopped(f"{message}; {advice}", answered=answered, asked=asked) from error


def prompts_of(records: Iterator[dict[str, Any]]) -> Iterator[Prompt]:
    """The prompts of conversations, without the last answer, and of texts, each as the turn of a user."""
    for record in records:
        if "messages" not in record:
            yield Prompt(turns=(("user", record["text"]),))
            continue
        turns = [(turn["role"], turn["content"]) for turn in record["messages"]]
        while turns and turns[-1][0] != "user":
            turns.pop()
        if turns:
            yield Prompt(turns=tuple(turns))
