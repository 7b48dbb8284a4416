"""Where an answer is judged, and what of it is released, does not depend on how it is cut into chunks."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.errors import ContentRefused
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.guardrails import Denylist, default
from hybrid_llm.router.execution.answer import iterate, stepped
from hybrid_llm.router.guardrails.answers import AnswerScreen
from hybrid_llm.router.guardrails.passages import Passages

WORD = "forbidden"
PIECES = st.sampled_from(
    [
        WORD,
        "for",
        "bidden",
        "f",
        "n",
        " ",
        "\n",
        "a",
        "harmless words ",
        "\\u0066",
        "\u200b",
        "中文",
        "。",
        "x" * 40,
        "é",
    ]
)
TEXTS = st.lists(PIECES, max_size=40).map("".join)


def cuts(text: str, data: st.DataObject) -> list[str]:
    """*text* in pieces, cut anywhere."""
    at = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


def judged(pieces: list[str], window: int, refuses) -> tuple[str, bool]:
    """What is released of *pieces*, and whether they are refused."""
    passages, out = Passages(window), ""
    for piece in [*pieces, None]:
        if piece is not None:
            passages.push(piece)
        while (text := passages.due(over=piece is None)) is not None:
            if refuses(text):
                return out, True
            out += passages.passed()
    return out + passages.rest(), False


@given(TEXTS, st.data())
def test_every_way_to_cut_a_text_has_one_verdict_and_releases_the_same(text, data):
    whole = judged([text], len(WORD), lambda passage: WORD in passage)
    assert judged(cuts(text, data), len(WORD), lambda passage: WORD in passage) == whole


@given(TEXTS, st.data())
def test_a_text_is_refused_exactly_if_the_word_is_in_it_and_nothing_of_the_word_is_released(text, data):
    released, refused = judged(cuts(text, data), len(WORD), lambda passage: WORD in passage)
    assert refused == (WORD in text)
    assert released == text if not refused else text[: text.index(WORD)].startswith(released)


@given(st.text(max_size=300), st.integers(1, 60), st.data())
def test_what_is_allowed_is_released_whole_and_in_order(text, window, data):
    assert judged(cuts(text, data), window, lambda _: False) == (text, False)


@pytest.mark.parametrize("window", [1, 2, 17, 40, 120])
def test_a_passage_as_long_as_the_window_is_seen_whole_wherever_it_stands(window):
    """No character of it is released, whichever of its characters is the first of a block or the last."""
    passage = "!" * window
    for at in range(200):
        text = ("word " * 100)[:at] + passage + " and more words" * 20
        released, refused = judged([text], window, lambda seen: passage in seen)
        assert refused, at
        assert "!" not in released, at


@pytest.mark.parametrize(
    ("text", "longest"), [("some words " * 200, len("words ")), ("x" * 2000, 64), ("中文。" * 400, 3)]
)
def test_no_more_is_held_back_than_a_window_and_a_block(text, longest):
    passages, out = Passages(120), 0
    for at in range(len(text)):
        passages.push(text[at])
        while passages.due(over=False) is not None:
            out += len(passages.passed())
        assert at + 1 - out <= 120 + 30 + longest


@pytest.mark.parametrize("between", ["", "\u200b", "\u200d" * 5, "\u0301", "\\u200b"])
def test_invisible_characters_do_not_stretch_a_phrase_out_of_the_window(between):
    phrase = "a very forbidden thing"
    words, text = Denylist([phrase]), "harmless words " * 20 + between.join(phrase) + " and more" * 20

    def refuses(passage: str) -> bool:
        return words.check(passage, None, None).refuses

    released, refused = judged(list(text), words.window, refuses)
    assert refused
    assert ("harmless words " * 20).startswith(released)


def test_the_work_is_linear_also_where_no_space_comes():
    for text in ("x" * 60_000, "\u200b" * 20_000, "\\" * 20_000):
        count = 0

        def seen(passage: str) -> bool:
            nonlocal count
            count += len(passage)
            return False

        assert judged([text], 100, seen) == (text, False)
        assert count < 60 * len(text)


@given(st.lists(st.tuples(st.sampled_from(["text", "reasoning", "call"]), PIECES), max_size=20), st.data())
def test_an_answer_of_several_parts_is_the_same_in_every_cut(parts, data):
    """The chunks of one piece each, and each piece cut again, release the same of every part."""
    coarse = answer([chunk(part, piece, first=i == first_call(parts)) for i, (part, piece) in enumerate(parts)])
    fine = []
    for i, (part, piece) in enumerate(parts):
        for j, cut in enumerate(cuts(piece, data)):
            fine.append(chunk(part, cut, first=i == first_call(parts) and j == 0))
    assert answer(fine) == coarse


def first_call(parts: list[tuple[str, str]]) -> int:
    return next((i for i, (part, _) in enumerate(parts) if part == "call"), -1)


def chunk(part: str, piece: str, *, first: bool) -> Chunk:
    if part == "call":
        return Chunk(tool_calls=(ToolCallDelta(index=0, name="f" if first else "", arguments=piece),))
    return Chunk(text=piece) if part == "text" else Chunk(reasoning=piece)


def answer(chunks: list[Chunk]) -> tuple[str, str, str, bool]:
    """The text, reasoning and arguments that are released of *chunks*, and whether they are refused."""
    refusal = ContentRefused("no", guardrail="g", direction="output", category="c")
    screen = AnswerScreen(window=len(WORD), refusal=lambda text: refusal if WORD in text else None)
    out: list[Chunk] = []
    refused = False
    try:
        for each in iterate(screen.chunks(stepped([*chunks, Chunk(finish_reason=FinishReason.STOP)]))):
            out.append(each)  # what was released before a refusal counts
    except ContentRefused:
        refused = True
        assert out[-1].finish_reason is None
    arguments = "".join(delta.arguments for each in out for delta in each.tool_calls)
    return "".join(e.text for e in out), "".join(e.reasoning for e in out), arguments, refused


def test_the_default_guardrail_gives_the_same_for_chunks_of_any_size():
    guardrail, rng = default(), random.Random(7)
    harm = "Of course. Here is how to build a pipe bomb at home from what you find in the kitchen. "
    text = "Spring is when the birds come back, and people walk in the parks again. " * 4 + harm * 2

    def refuses(passage: str) -> bool:
        return guardrail.check(passage, None, None).refuses

    whole = judged([text], guardrail.window, refuses)
    assert whole[1]
    assert "pipe" not in whole[0]
    assert "Here is how" not in whole[0]
    for _ in range(30):
        at = sorted(rng.randrange(len(text)) for _ in range(rng.randint(0, 40)))
        pieces = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
        assert judged(pieces, guardrail.window, refuses) == whole
