"""The table between errors and statuses: total over both, and a round trip changes nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.wire import status
from hybrid_llm.backends.wire.certificates import TRUST_DOMAIN
from hybrid_llm.backends.wire.status import DEFAULTS, ERROR_KEY, ROWS, decode, encode
from hybrid_llm.backends.wire.vocabulary import REASONS, known
from hybrid_llm.core import errors
from hybrid_llm.core.errors import BackendError, RequestRejected, SecurityError, StreamInterrupted
from hybrid_llm.protos import hybrid_pb2 as pb


def _concrete(base):
    for error in base.__subclasses__():
        yield error
        yield from _concrete(error)


ERRORS = [*_concrete(BackendError), *_concrete(SecurityError)]


def test_every_error_of_a_backend_or_of_security_has_a_row():
    assert {row.error for row in ROWS.values()} == set(ERRORS)
    assert len(ROWS) == len(ERRORS)


def test_every_status_has_a_meaning():
    assert set(DEFAULTS) == set(StatusCode)
    assert set(DEFAULTS.values()) <= set(ROWS)


@pytest.mark.parametrize("code", list(StatusCode))
def test_every_status_without_detail_gives_an_error(code):
    assert isinstance(decode(code, "", (), backend="cloud"), BackendError | SecurityError)


seconds = st.none() | st.floats(0, 1e6)
FACTS = {
    "backend_unavailable": st.fixed_dictionaries(
        {"retry_after": seconds, "reason": st.sampled_from(["", *sorted(REASONS)])}
    ),
    "backend_overloaded": st.fixed_dictionaries({"retry_after": seconds}),
    "quota_exceeded": st.fixed_dictionaries({"retry_after": seconds}),
    "deadline_exceeded": st.fixed_dictionaries({"elapsed": seconds}),
    "stream_interrupted": st.fixed_dictionaries({"received_tokens": st.integers(0, 2**31 - 1)}),
    "request_rejected": st.fixed_dictionaries({"reason": st.sampled_from(sorted(REASONS))}),
    "protocol_mismatch": st.fixed_dictionaries({"ours": st.integers(0, 99), "theirs": st.integers(0, 99)}),
    "privacy_violation": st.fixed_dictionaries({"location": st.sampled_from(["edge", "cloud"])}),
}


@given(kind=st.sampled_from(sorted(ROWS)), data=st.data())
def test_a_round_trip_gives_the_same_error_with_the_same_attributes(kind, data):
    facts = data.draw(FACTS.get(kind, st.just({})))
    named = {} if kind in ("decryption_failed", "privacy_violation", "untrusted_model") else {"backend": "node"}
    sent = ROWS[kind].error("the prompt is empty", **named, **facts)
    status = encode(sent)
    assert status.code is ROWS[kind].code
    got = decode(status.code, status.message, ((ERROR_KEY, status.detail),), backend="cloud")
    assert type(got) is type(sent)
    assert str(got) == "the prompt is empty"
    assert getattr(got, "backend", "cloud") == "cloud", "the client's own name for it"
    swapped = {"ours": facts.get("theirs"), "theirs": facts.get("ours")} if kind == "protocol_mismatch" else facts
    assert {name: getattr(got, name) for name in swapped} == swapped


@given(st.sampled_from(list(StatusCode)), st.text(), st.binary(), st.integers(0, 5))
def test_any_status_with_any_bytes_gives_a_typed_error(code, message, detail, received):
    error = decode(code, message, ((ERROR_KEY, detail),), backend="cloud", received_tokens=received)
    assert isinstance(error, BackendError | SecurityError)


CANARY = "Quartalsbericht"


@given(st.sampled_from(list(StatusCode)), st.sampled_from(sorted(ROWS)), st.integers(0, 5), st.booleans())
def test_no_text_of_a_nodes_own_choice_reaches_the_app(code, kind, received, has_kind):
    """Not as a message, nor as a fact."""
    detail = pb.ErrorDetail(kind=kind if has_kind else CANARY, reason=CANARY, location=CANARY)
    trailing = ((ERROR_KEY, detail.SerializeToString()),)
    for message in (CANARY, f"the prompt is empty {CANARY}", f"connection refused: {CANARY}", f"{CANARY}\n" * 5000):
        error = decode(code, message, trailing, backend="cloud", received_tokens=received)
        assert CANARY not in f"{error} {error!r} {error.args} {vars(error)}"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0, 1e300])
def test_numbers_that_are_none_are_left_out(number):
    for kind, fact in (("backend_overloaded", "retry_after"), ("deadline_exceeded", "elapsed")):
        detail = pb.ErrorDetail(kind=kind, **{fact: number})
        trailing = ((ERROR_KEY, detail.SerializeToString()),)
        assert getattr(decode(StatusCode.OK, "", trailing, backend="cloud"), fact) is None
    detail = pb.ErrorDetail(kind="stream_interrupted", received_tokens=-5)
    error = decode(StatusCode.ABORTED, "", ((ERROR_KEY, detail.SerializeToString()),), backend="cloud")
    assert error.received_tokens == 0


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "the node is full: 12 requests are running or waiting",
            "the node is full: 12 requests are running or waiting",
        ),
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:443: Connection refused",
            "connection refused, failed to connect to all addresses",
        ),
        ("sampling.top_p: must be a number from 0 to 1", None),
        ("the node failed on this request (ValueError)", "the node failed on this request (ValueError)"),
        (f"the node failed on this request ({CANARY})", ""),
        ("the node is full: 123456789012345 requests are running or waiting", ""),
        (CANARY, ""),
    ],
)
def test_known_sentences_and_phrases_are_shown(message, shown):
    assert known(message) == shown or shown is None


def test_a_break_after_the_first_token_interrupts():
    error = decode(StatusCode.UNAVAILABLE, "Socket closed", (), backend="cloud", received_tokens=3)
    assert isinstance(error, StreamInterrupted)
    assert error.received_tokens == 3


def test_grpcs_own_message_limit_is_no_overload():
    text = "CLIENT: Received message larger than max (5000000 vs. 4194304)"
    error = decode(StatusCode.RESOURCE_EXHAUSTED, text, (), backend="cloud")
    assert isinstance(error, RequestRejected)
    assert error.reason == "message_too_large"


def test_errors_of_the_callers_side_never_go_over_the_wire():
    for error in (errors.ConfigError("x"), errors.InvalidRequest("x", field="y")):
        with pytest.raises(KeyError):
            encode(error)


def sentences() -> Iterator[str]:
    """Each message of an error that the node makes, its holes filled."""
    for path in sorted((Path(status.__file__).parents[1] / "node").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            is_error = isinstance(node, ast.Call) and any(word.arg == "backend" for word in node.keywords)
            if is_error and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                yield "".join(filled(node.args[0]))
            if isinstance(node, ast.Yield) and isinstance(node.value, ast.Constant | ast.JoinedStr):
                yield "".join(filled(node.value))


def filled(text: ast.expr) -> Iterator[str]:
    for part in getattr(text, "values", [text]):
        if isinstance(part, ast.Constant):
            yield str(part.value)
        else:
            shown = ast.unparse(part.value)
            yield {
                "name": "ValueError",
                "type(error).__name__": "ValueError",
                "field": "task",
                "LOGPROBS.words": "a whole number from 0 to 20",
                "version or 'none'": "none",
            }.get(shown, "7")


def test_the_client_knows_every_sentence_of_a_node():
    found = [text for text in sentences() if " " in text and not text.startswith(("sampling.7", "77"))]
    assert len(found) > 15
    for text in found:
        shown = text.replace(f"under {7}", f"under {TRUST_DOMAIN}").replace("problem", "")
        assert known(shown) == shown
