"""The table between errors and statuses: total over both, and a round trip changes nothing."""

from __future__ import annotations

import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.wire.status import DEFAULTS, ERROR_KEY, ROWS, decode, encode
from hybrid_llm.core import errors
from hybrid_llm.core.errors import BackendError, RequestRejected, SecurityError, StreamInterrupted


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
    "backend_overloaded": st.fixed_dictionaries({"retry_after": seconds}),
    "quota_exceeded": st.fixed_dictionaries({"retry_after": seconds}),
    "deadline_exceeded": st.fixed_dictionaries({"elapsed": seconds}),
    "stream_interrupted": st.fixed_dictionaries({"received_tokens": st.integers(0, 2**31 - 1)}),
    "request_rejected": st.fixed_dictionaries({"reason": st.sampled_from(["context_overflow", "unsupported", "x"])}),
    "protocol_mismatch": st.fixed_dictionaries({"ours": st.integers(0, 99), "theirs": st.integers(0, 99)}),
    "privacy_violation": st.fixed_dictionaries({"location": st.sampled_from(["edge", "cloud"])}),
}


@given(kind=st.sampled_from(sorted(ROWS)), data=st.data())
def test_a_round_trip_gives_the_same_error_with_the_same_attributes(kind, data):
    facts = data.draw(FACTS.get(kind, st.just({})))
    named = {} if kind in ("decryption_failed", "privacy_violation") else {"backend": "node"}
    sent = ROWS[kind].error("why", **named, **facts)
    status = encode(sent)
    assert status.code is ROWS[kind].code
    got = decode(status.code, status.message, ((ERROR_KEY, status.detail),), backend="cloud")
    assert type(got) is type(sent)
    assert str(got) == "why"
    assert getattr(got, "backend", "cloud") == "cloud", "the client's own name for it"
    swapped = {"ours": facts.get("theirs"), "theirs": facts.get("ours")} if kind == "protocol_mismatch" else facts
    assert {name: getattr(got, name) for name in swapped} == swapped


@given(st.sampled_from(list(StatusCode)), st.text(), st.binary(), st.integers(0, 5))
def test_any_status_with_any_bytes_gives_a_typed_error(code, message, detail, received):
    error = decode(code, message, ((ERROR_KEY, detail),), backend="cloud", received_tokens=received)
    assert isinstance(error, BackendError | SecurityError)


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
