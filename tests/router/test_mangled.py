"""What a model changed beyond repair is counted and reported, and what it did not change is not."""

from __future__ import annotations

import logging

import pytest

from hybrid_llm.core.generation import AnswerWarning, Chunk, FinishReason
from hybrid_llm.core.request import Message, Request
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.router.privacy.detectors import Finding, prepare
from hybrid_llm.router.privacy.pseudonyms.mangled import mangled
from hybrid_llm.router.privacy.pseudonyms.table import PseudonymTable
from hybrid_llm.router.privacy.restore import AnswerRestorer

TABLE = PseudonymTable(b"k" * 32)
VALUES = ["bob@example.org", "+49 30 1234567"]
EMAIL, PHONE = TABLE.replace_all(
    prepare(VALUES),
    [[Finding(kind=kind, start=0, end=len(value))] for kind, value in zip(("email", "phone"), VALUES, strict=True)],
)
CODE, OTHER = EMAIL[6:], PHONE[4:]
SENT = [f"Write to {EMAIL} or call {PHONE}."]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (f"Write to {EMAIL[:-1]}.", {"EMAIL": 1}),
        (f"Write to {EMAIL}: it is {EMAIL[:-2]}, I mean EMAIL_{CODE[0]}0{CODE[2:]}", {"EMAIL": 2}),
        (f"ADDRESS_{CODE} and customer_{CODE.lower()}", {"EMAIL": 2}),
        (f"The code is {CODE[1:]}", {"EMAIL": 1}),
        (f"it is X{OTHER} and {CODE}7", {"EMAIL": 1, "TEL": 1}),
        (f"call TEL_{OTHER[1]}{OTHER[0]}{OTHER[2:]}", {"TEL": 1}),
    ],
)
def test_what_is_near_a_pseudonym_of_the_request_is_counted(answer, found):
    assert mangled(answer, SENT, TABLE) == found


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "There is nothing to write to.",
        f"Write to {EMAIL}, {EMAIL.lower()}, E-MAIL_{CODE} or {CODE}; call {PHONE}",
        "Set EMAIL_ADDRESS and PHONE_NUMBER, see RFC5322, 4711 and COVID19.",
        "EMAIL_9ZZ8Z was of another conversation",
    ],
)
def test_what_is_restored_or_unlike_any_is_not_counted(answer):
    assert mangled(answer, SENT, TABLE) == {}


def test_a_pseudonym_that_this_request_did_not_send_is_not_missed():
    assert mangled(f"Write to {EMAIL[:-1]}.", ["Hello"], TABLE) == {}


def answered(pieces: list[Chunk]) -> Chunk:
    request = Request(messages=(Message(role="user", content=SENT[0]),))
    restorer = AnswerRestorer(TABLE, request)
    *before, last = [restorer.restore(piece) for piece in pieces]
    assert not any(chunk.warnings for chunk in before)
    return last


def test_the_last_chunk_warns_of_all_of_the_answer_and_the_log_says_it_once_without_text(caplog):
    bad = EMAIL[:-1]
    call = ToolCallDelta(index=0, id="1", name="send", arguments=f'{{"to": "{PHONE[:-1]}"}}')
    with caplog.at_level(logging.WARNING, "hybrid_llm.privacy"):
        last = answered(
            [
                Chunk(reasoning=f"to {bad}"),
                *(Chunk(text=letter) for letter in f"Dear {bad}!"),
                Chunk(tool_calls=(call,)),
                Chunk(finish_reason=FinishReason.STOP),
            ]
        )
    assert last.warnings == (
        AnswerWarning(code="pseudonym_mangled", kind="EMAIL", count=2),
        AnswerWarning(code="pseudonym_mangled", kind="TEL", count=1),
    )
    (record,) = caplog.records
    assert "EMAIL" in record.getMessage()
    assert CODE[:-1] not in record.getMessage()


def test_an_answer_that_keeps_its_pseudonyms_has_no_warning(caplog):
    last = answered([Chunk(text=f"Dear {EMAIL}"), Chunk(text="!", finish_reason=FinishReason.STOP)])
    assert last.warnings == ()
    assert not caplog.records
