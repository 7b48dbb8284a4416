"""One property for each kind of leak that a search over whole clients meets too rarely: each is tried everywhere."""

from __future__ import annotations

import base64
import html
import itertools
import json
import logging
import pickle
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import is_dataclass, replace
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from hybrid_llm.core.clearance import Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import (
    BackendOverloaded,
    BackendUnavailable,
    HybridLLMError,
    PrivacyViolation,
    RequestRejected,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Generation, Usage
from hybrid_llm.core.request import Location, Message, PartialAnswer, Request, Role, Sampling, Tool
from hybrid_llm.policies import KNOWN_DETECTORS, Policy, parse_policy
from hybrid_llm.router.caching.answers import CachedAnswer
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import DETECTORS, Finding, scan
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import A_DAY, FakeBackend
from tests.leaks.canaries import Canaries, leaked
from tests.leaks.witness import Witness, reachable

MAIL, RECORD, SSN, CARD = "jane.doe@example.org", "MRN 4711-22-93", "511-07-3750", "4111 1111 1111 1111"
CLOUD, EDGE = Location.CLOUD, Location.EDGE


def policy(*tags: str, prefer: str = "edge, cloud", more: str = "retries: 0, continue_streams: true") -> Policy:
    lines = ["version: 1", "name: p", "tags:" if tags else "tags: {}", *(f"  {tag}" for tag in tags)]
    text = "\n".join([*lines, f"rules: [{{prefer: [{prefer}]}}]", f"resilience: {{{more}}}", ""])
    known = KNOWN_DETECTORS | {"shy", "fragile", "everything"}
    return parse_policy(text, backends={"edge": EDGE, "cloud": CLOUD}, detectors=known)


PII = "pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}"
IDS = "ids: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [us_ssn, payment_card]}"
PHI = "phi: {allow: [edge], detect: [medical_record]}"
OPEN = "open: {allow: [edge, cloud]}"
PLAIN = "a: {allow: [edge, cloud]}"
STRICT, LAX = policy(PII, PHI), policy(PII, OPEN)


def request(text: str = "words", **options) -> Request:
    return Request(messages=(Message(role="user", content=text),), **options)


def texts(seen: Request) -> str:
    return "\n".join(seen.visible_text())


# Where a text may stand in a request: each takes the request and the text.

PLACES: dict[str, Callable[[Request, str], Request]] = {
    "the first message": lambda r, t: replace(r, messages=(Message(role="user", content=t), *r.messages)),
    "the last message": lambda r, t: replace(r, messages=(*r.messages, Message(role="user", content=t))),
    "a system message": lambda r, t: replace(r, messages=(Message(role="system", content=t), *r.messages)),
    "an answer before": lambda r, t: replace(r, messages=(Message(role="assistant", content=t), *r.messages)),
    "a tool result": lambda r, t: replace(r, messages=(*r.messages, Message(role="tool", content=t))),
    "the schema": lambda r, t: replace(r, output_schema=f'{{"type": "object", "title": "{t}"}}'),
    "the description of a tool": lambda r, t: replace(r, tools=(*r.tools, Tool(name="f", description=t))),
    "the parameters of a tool": lambda r, t: replace(
        r, tools=(*r.tools, Tool(name="f", parameters=f'{{"title": "{t}"}}'))
    ),
    "the name of a tool": lambda r, t: replace(r, tools=(*r.tools, Tool(name=t))),
    "a stop text": lambda r, t: replace(r, sampling=replace(r.sampling, stop=("END", t))),
    "the answer so far": lambda r, t: replace(r, answer_prefix=t),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_value_that_must_stay_keeps_the_request_here_wherever_it_stands(place):
    asked = PLACES[place](request(), f"see {RECORD} .")
    assert PrivacyGuard().assess(asked, STRICT).allowed == {EDGE}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", [MAIL, SSN, CARD])
def test_a_value_is_replaced_in_every_text_of_the_request_wherever_it_was_found(place, value):
    asked = PLACES[place](
        PLACES["the first message"](request(f"my SSN or card: {value}"), f"x {value} y"), f"x {value} y"
    )
    assessment = PrivacyGuard().assess(asked, policy(PII, IDS))
    assert CLOUD in assessment.allowed, assessment.blocked
    assert leaked([value], texts(assessment.request_for(CLOUD))) == []


class Shy:
    """Finds `zz9zz` in a text that has no address: once the address has its pseudonym, and not before."""

    name = "shy"

    def find(self, text: str) -> Iterator[Finding]:
        at = text.find("zz9zz") if "@" not in text else -1
        if at >= 0:
            yield Finding(kind="shy", start=at, end=at + 5)


@pytest.mark.parametrize("place", PLACES)
def test_the_second_look_sees_every_text(place):
    both = policy("pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, shy]}")
    asked = PLACES[place](request(f"write to {MAIL}"), f"{MAIL} zz9zz")
    assert PrivacyGuard([Shy()]).assess(asked, both).allowed == {EDGE}


class Greedy:
    """Finds a whole line, once there is a pseudonym in it."""

    name = "shy"

    def find(self, text: str) -> Iterator[Finding]:
        if "EMAIL_" in text:
            yield Finding(kind="shy", start=0, end=len(text))


@pytest.mark.parametrize("place", PLACES)
def test_a_find_of_the_second_look_that_is_more_than_a_pseudonym_keeps_the_request_here(place):
    both = policy("pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, shy]}")
    assert PrivacyGuard([Greedy()]).assess(PLACES[place](request(), f"{MAIL} Smith"), both).allowed == {EDGE}


class Fragile:
    """Finds nothing, and raises in the second look at a text, or at any text of a partial answer."""

    name = "fragile"

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def find(self, text: str) -> Iterator[Finding]:
        if "EMAIL_" in text:
            raise RuntimeError(text)
        return iter(())


@pytest.mark.parametrize("place", PLACES)
def test_a_detector_that_fails_in_the_second_look_keeps_the_request_here(place, caplog):
    both = policy("pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email, fragile]}")
    with caplog.at_level(logging.DEBUG):
        assert PrivacyGuard([Fragile()]).assess(PLACES[place](request(), f"to {MAIL}"), both).allowed == {EDGE}
    assert leaked([MAIL, "EMAIL_"], caplog.text) == []


# Tags.


def test_a_node_learns_no_name_of_a_tag_unless_the_policy_shares_it():
    guard = PrivacyGuard()
    asked = request(f"to {MAIL}", privacy=frozenset({"open"}))
    sent = guard.clear(guard.assess(asked, LAX), CLOUD)
    assert sent.request.privacy == sent.clearance.tags == frozenset()


DECLARED = "pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}"
ACCEPTED = "pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email], accept_undetected_names: true}"


def test_a_declared_tag_keeps_the_request_here_without_a_detector_of_names_also_in_a_continuation():
    guard, asked = PrivacyGuard(), request(f"my sister, {MAIL}", privacy=frozenset({"pii"}))
    known = guard.assess(asked, policy(DECLARED))
    assert known.allowed == {EDGE}
    assert guard.assess_continuation(known, PartialAnswer(text="She", tokens=1), policy(DECLARED)).allowed == {EDGE}
    found = guard.assess(request(f"my sister, {MAIL}"), policy(DECLARED))
    assert CLOUD in found.allowed
    assert CLOUD in guard.assess_continuation(found, PartialAnswer(text="She", tokens=1), policy(DECLARED)).allowed
    assert CLOUD in guard.assess(asked, policy(ACCEPTED)).allowed


# Continuations.


class Reloading:
    """A source of policies in which another takes over."""

    def __init__(self, first: Policy) -> None:
        self.current = first

    def close(self) -> None:
        pass


def continued(admitted: Policy, later: Policy, beginning: str, *, is_async: bool, ask: str = "words") -> list[Request]:
    """What the cloud gets after the edge wrote *beginning* and broke off, *later* having taken over meanwhile."""
    edge = FakeBackend("edge", EDGE, [beginning, StreamInterrupted("cut", backend="edge")], [])
    cloud = FakeBackend("cloud", CLOUD, ["the rest"])
    source = Reloading(admitted)
    with HybridLLM([edge, cloud], source, sensors=FixedSensors()) as client:
        stream = client.stream(ask)
        with stream:
            try:
                for _ in stream:
                    source.current = later
            except StreamInterrupted:
                pass
    return cloud.requests


@pytest.mark.parametrize("later", [STRICT, LAX, policy(OPEN)])
def test_a_continuation_is_judged_by_the_policy_under_which_the_request_began(later):
    assert continued(STRICT, later, f"It is {RECORD} , ", is_async=False) == []
    (seen,) = continued(LAX, later, f"Write to {MAIL} , ", is_async=False)
    assert MAIL not in texts(seen)
    assert "EMAIL_" in texts(seen)


@pytest.mark.parametrize("later", [LAX, policy(OPEN)])
def test_an_answer_is_cached_by_the_policy_under_which_the_request_began(later):
    class Far(MemoryCache):
        location = CLOUD  # type: ignore[misc]

        def __init__(self) -> None:
            super().__init__()
            self.stored: list[str] = []

        def put(self, cleared: Cleared, answer: CachedAnswer) -> None:
            self.stored.append(answer.text)

    cache, source = Far(), Reloading(STRICT)
    edge = FakeBackend("edge", EDGE, ["It is ", f"{RECORD} ."])
    with HybridLLM([edge], source, sensors=FixedSensors(), cache=cache) as client, client.stream("words") as stream:
        for _ in stream:
            source.current = later
    assert cache.stored == []


@given(
    value=st.sampled_from([MAIL, SSN, CARD, "o'hara\\x@example.org", 'jane "jd" doe', "müller@bücher.example"]),
    cut=st.integers(2, 40),
    as_json=st.booleans(),
)
def test_an_answer_torn_within_a_value_is_not_continued_elsewhere(value, cut, as_json):
    """Also where the model wrote the value as JSON does."""
    guard = PrivacyGuard([Everything(value)])
    both = policy("any: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [everything]}")
    known = guard.assess(request(f"it is {value} ok"), both)
    written = json.dumps(value)[1:-1] if as_json else value
    torn = written[: min(cut, len(written) - 1)]
    after = guard.assess_continuation(known, PartialAnswer(text=f"It is {torn}", tokens=3), both)
    assert CLOUD not in after.allowed


class Everything:
    """Finds one value."""

    name = "everything"

    def __init__(self, *values: str) -> None:
        self._values = values

    def find(self, text: str) -> Iterator[Finding]:
        for value in self._values:
            at = text.find(value)
            if at >= 0:
                yield Finding(kind="everything", start=at, end=at + len(value))


def _percent(text: str) -> str:
    return quote(text, safe="")


SPELLINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    "lower case": ("Jane.Doe@Example.org", str.lower),
    "upper case": (MAIL, str.upper),
    "Markdown": ("jane_doe@example.org", lambda text: text.replace("_", "\\_")),
    "percent": ("jane+doe@example.org", _percent),
    "percent of all": (MAIL, lambda text: "".join(f"%{byte:02x}" for byte in text.encode())),
    "HTML": (MAIL, lambda text: text.replace("@", "&#64;").replace(".", "&#x2e;")),
    "JSON": (MAIL, lambda text: text.replace("@", "\\u0040")),
    "dots for hyphens": (SSN, lambda text: text.replace("-", ".")),
    "compact": (SSN, lambda text: text.replace("-", "")),
    "groups of three": (CARD, lambda text: " ".join(textwrap.wrap(text.replace(" ", ""), 3))),
    "base64": (MAIL, lambda text: base64.b64encode(f"it is {text}".encode()).decode()),
    "hexadecimal": (MAIL, lambda text: text.encode().hex()),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_answer_torn_within_another_spelling_of_a_value_is_not_continued_elsewhere(spelling):
    value, spell = SPELLINGS[spelling]
    guard, both = PrivacyGuard(), policy(PII, IDS)
    known = guard.assess(request(f"My SSN, card or address is {value} ."), both)
    written = spell(value)
    for cut in range(12 if spelling in {"base64", "hexadecimal"} else 3, len(written)):
        after = guard.assess_continuation(known, PartialAnswer(text=f"It is {written[:cut]}", tokens=3), both)
        assert CLOUD not in after.allowed or written[:cut] not in texts(after.request_for(CLOUD)), written[:cut]
    whole = guard.assess_continuation(known, PartialAnswer(text=f"It is {written} .", tokens=3), both)
    assert CLOUD not in whole.allowed or written not in texts(whole.request_for(CLOUD))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("session", ["s", None])
def test_a_known_value_leaves_in_no_other_spelling(place, spelling, session):
    """In a session it is known of an earlier turn, without one of another text of the same request."""
    value, spell = SPELLINGS[spelling]
    guard, both = PrivacyGuard(), policy(PII, IDS)
    first = request(f"My SSN, card or address is {value} .", session_id=session)
    if session is not None:
        guard.release(guard.assess(first, both))
    asked = PLACES[place](request(session_id=session) if session is not None else first, f"it is {spell(value)} , yes")
    assessment = guard.assess(asked, both)
    assert CLOUD not in assessment.allowed or spell(value) not in texts(assessment.request_for(CLOUD))


@given(cut=st.integers(2, 11))
def test_an_answer_torn_within_a_part_of_a_longer_find_is_not_continued_elsewhere(cut):
    """Of two finds that overlap only the whole has a pseudonym; each of them is a value all the same."""
    whole, part = "user:hunter2xyz-jane@host.example", "hunter2xyz-jane"
    guard = PrivacyGuard([Everything(whole, part)])
    both = policy("any: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [everything]}")
    known = guard.assess(request(f"it is {whole} ok"), both)
    after = guard.assess_continuation(known, PartialAnswer(text=f"It is {part[:cut]}", tokens=3), both)
    assert CLOUD not in after.allowed


def test_a_whole_value_in_a_partial_answer_gets_the_pseudonym_of_the_request():
    guard = PrivacyGuard()
    known = guard.assess(request(f"to {MAIL} now"), LAX)
    after = guard.assess_continuation(known, PartialAnswer(text=f"I write to {MAIL} now", tokens=5), LAX)
    name = texts(known.request_for(CLOUD)).split()[1]
    assert texts(after.request_for(CLOUD)) == f"to {name} now\nI write to {name} now"


@pytest.mark.parametrize("torn", ["jane.do", "jane.doe@exam", "JANE.D"])
@pytest.mark.parametrize("more", ["words", "to john@example.com"])
def test_an_answer_torn_within_a_value_of_an_earlier_turn_is_not_continued_elsewhere(torn, more):
    """Also if the request itself has nothing to replace."""
    guard = PrivacyGuard()
    guard.release(guard.assess(request(f"to {MAIL}", session_id="s"), LAX))
    known = guard.assess(request(more, session_id="s"), LAX)
    assert CLOUD in known.allowed
    after = guard.assess_continuation(known, PartialAnswer(text=f"I write to {torn}", tokens=3), LAX)
    assert CLOUD not in after.allowed
    whole = guard.assess_continuation(known, PartialAnswer(text=f"I write to {MAIL} ,", tokens=3), LAX)
    assert leaked([MAIL], texts(whole.request_for(CLOUD))) == []


def restored(restorer, text):
    return restorer.restore(Chunk(text=text, finish_reason=FinishReason.STOP)).text


def test_sessions_of_two_tenants_know_nothing_of_each_other():
    guard = PrivacyGuard()
    names = {}
    for tenant in (None, "a", "b"):
        assessment = guard.assess(request(f"to {MAIL}", session_id="s", tenant=tenant), LAX)
        names[tenant] = texts(assessment.request_for(CLOUD)).split()[1]
        guard.release(assessment)
    assert len(set(names.values())) == 3
    for tenant in names:
        mine = guard.assess(request(f"to {MAIL}", session_id="s", tenant=tenant), LAX)
        restorer = guard.restorer(mine, CLOUD)
        assert restorer is not None
        text = " ".join(names.values())
        assert restored(restorer, text) == text.replace(names[tenant], MAIL)


@pytest.mark.parametrize("how", ["forgotten", "closed"])
def test_nothing_is_restored_from_a_session_that_is_over(how):
    guard = PrivacyGuard()
    first = guard.assess(request(f"to {MAIL}", session_id="s"), LAX)
    name = texts(first.request_for(CLOUD)).split()[1]
    guard.release(first)
    if how == "closed":
        guard.close()
        assert guard.assess(request(f"to {MAIL}", session_id="s"), LAX).allowed == {EDGE}
        return
    guard.forget("s")
    second = guard.assess(request(f"to {MAIL}", session_id="s"), LAX)
    restorer = guard.restorer(second, CLOUD)
    assert restorer is not None
    assert restored(restorer, f"{name} ") == f"{name} "


def test_a_new_value_in_a_partial_answer_is_judged_like_one_of_the_request():
    guard = PrivacyGuard()
    known = guard.assess(request("words"), STRICT)
    assert known.allowed == {EDGE, CLOUD}
    assert guard.assess_continuation(known, PartialAnswer(text=f"It is {RECORD} ,", tokens=3), STRICT).allowed == {EDGE}
    after = guard.assess_continuation(known, PartialAnswer(text=f"It is {MAIL} ,", tokens=3), STRICT)
    assert leaked([MAIL], texts(guard.clear(after, CLOUD).request)) == []


# Caches.

BASE = Request(
    messages=(Message(role="user", content="one"), Message(role="assistant", content="two")),
    tools=(Tool(name="f", description="does"),),
    sampling=Sampling(stop=("END",)),
    output_schema="{}",
    deadline=A_DAY,
)


def said(*turns: tuple[Role, str]) -> Request:
    return replace(BASE, messages=tuple(Message(role=role, content=text) for role, text in turns))


ALONE = request("a", deadline=A_DAY)
OTHERS: dict[str, Request] = {
    "a role": said(("system", "one"), ("assistant", "two")),
    "roles swapped": said(("assistant", "one"), ("user", "two")),
    "a text": said(("user", "uno"), ("assistant", "two")),
    "the order": replace(BASE, messages=BASE.messages[::-1]),
    "where a text ends": said(("user", "onet"), ("assistant", "wo")),
    "the tenant": replace(BASE, tenant="a"),
    "a tenant by the name of none": replace(BASE, tenant="None"),
    "the tags": replace(BASE, privacy=frozenset({"open"})),
    "the task": replace(BASE, task="other"),
    "the limit": replace(BASE, max_tokens=BASE.max_tokens + 1),
    "the stop texts": replace(BASE, sampling=replace(BASE.sampling, stop=("STOP",))),
    "a stop text more": replace(BASE, sampling=replace(BASE.sampling, stop=("END", "x"))),
    "the top k": replace(BASE, sampling=replace(BASE.sampling, top_k=3)),
    "no schema": replace(BASE, output_schema=None),
    "another schema": replace(BASE, output_schema='{"a": 1}'),
    "a tool's name": replace(BASE, tools=(replace(BASE.tools[0], name="g"),)),
    "a tool's description": replace(BASE, tools=(replace(BASE.tools[0], description="did"),)),
    "a tool's parameters": replace(BASE, tools=(replace(BASE.tools[0], parameters='{"b": 2}'),)),
    "no tool": replace(BASE, tools=()),
    "a tool instead of a stop text": replace(BASE, tools=(*BASE.tools, Tool(name="END")), sampling=Sampling()),
    "the answer so far": replace(BASE, answer_prefix="so"),
    "stop texts for the parts of a tool": replace(BASE, tools=(), sampling=Sampling(stop=("f", "does", "{}", "END"))),
    "a message and a stop text": replace(ALONE, sampling=Sampling(stop=("b",))),
    "a tag and a message": replace(ALONE, messages=(Message(role="user", content="b"),), privacy=frozenset({"a"})),
    "the answer so far for a stop text": replace(BASE, sampling=Sampling(), answer_prefix="END"),
}  # fmt: skip
ANSWER = CachedAnswer(text="answer", finish_reason=FinishReason.STOP, usage=Usage(), backend="edge")


def cleared(asked: Request, purpose: Purpose = Purpose.CACHE, location: Location = EDGE) -> Cleared:
    guard = PrivacyGuard()
    return guard.clear(guard.assess(asked, policy(OPEN, PLAIN)), location, purpose)


@pytest.mark.parametrize("other", OTHERS)
def test_two_requests_that_differ_share_no_cached_answer(other):
    for first, second in ((BASE, OTHERS[other]), (OTHERS[other], BASE)):
        cache = MemoryCache()
        cache.put(cleared(first), ANSWER)
        assert cache.get(cleared(second)) is None
        assert cache.get(cleared(replace(first, request_id="another", deadline=9.0))) is ANSWER


@pytest.mark.parametrize("pair", list(itertools.combinations(OTHERS, 2)), ids=" / ".join)
def test_no_two_of_the_variants_share_a_cached_answer(pair):
    cache = MemoryCache()
    cache.put(cleared(OTHERS[pair[0]]), ANSWER)
    assert cache.get(cleared(OTHERS[pair[1]])) is None


@pytest.mark.parametrize("call", [lambda c, r: c.get(r), lambda c, r: c.put(r, ANSWER)], ids=["get", "put"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cleared(BASE, Purpose.ANSWER),
        lambda: cleared(BASE, Purpose.CACHE, CLOUD),
        lambda: replace(cleared(BASE), request=OTHERS["a text"]),
    ],
    ids=["for an answer", "for the cloud", "for another text"],
)
def test_a_cache_takes_nothing_without_its_own_clearance(call, wrong):
    with pytest.raises(PrivacyViolation):
        call(MemoryCache(), wrong())


@pytest.mark.parametrize("other", OTHERS)
def test_a_clearance_covers_every_text_that_leaves(other):
    """What may differ under one clearance are numbers."""
    good = cleared(BASE, Purpose.ANSWER, CLOUD)
    forged = replace(good, request=replace(OTHERS[other], request_id=BASE.request_id))
    if other in {"the limit", "the top k"}:
        return
    with pytest.raises(PrivacyViolation):
        require_clearance(forged, CLOUD)


def test_a_clearance_covers_the_id_of_the_request():
    good = cleared(BASE, Purpose.ANSWER, CLOUD)
    with pytest.raises(PrivacyViolation):
        require_clearance(replace(good, request=replace(BASE, request_id="another")), CLOUD)


# Encodings, nested.

ESCAPES: dict[str, Callable[[str], str]] = {
    "percent": lambda text: quote(text, safe=""),
    "HTML": lambda text: "".join(f"&#{ord(c)};" if not c.isalnum() else c for c in text),
    "named HTML": lambda text: html.escape(text).replace("@", "&commat;").replace(".", "&period;"),
    "JSON": lambda text: "".join(f"\\u{ord(c):04x}" if not c.isalnum() else c for c in text),
}
CODES: dict[str, Callable[[str], str]] = {
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
    "hexadecimal": lambda text: text.encode().hex(),
}


@pytest.mark.parametrize("depth", [1, 2, 3])
@settings(deadline=None)
@given(data=st.data())
def test_a_value_is_found_under_every_nesting_of_escapes(depth, data):
    names = data.draw(st.lists(st.sampled_from(["percent", "HTML", "JSON"]), min_size=depth, max_size=depth))
    written = MAIL
    for name in names:
        written = ESCAPES[name](written)
    text = f"see {written} now"
    found = scan(text, [DETECTORS["email"]])
    assert [(f.start, f.end) for f in found] == [(4, 4 + len(written))], names


@pytest.mark.parametrize("depth", [1, 2, 3])
@settings(deadline=None)
@given(data=st.data())
def test_a_value_is_found_under_every_nesting_of_codes(depth, data):
    names = data.draw(st.lists(st.sampled_from(sorted(CODES)), min_size=depth, max_size=depth))
    written = f"the address is {MAIL}"
    for name in names:
        written = CODES[name](written)
    text = f"see {written} now"
    found = scan(text, [DETECTORS["email"]])
    assert [(f.start, f.end) for f in found if f.start <= 4 and f.end >= 4 + len(written)], names


@pytest.mark.parametrize("depth", [1, 2, 3])
@settings(deadline=None)
@given(data=st.data())
def test_a_known_value_of_the_apps_own_kind_leaves_under_no_nesting(depth, data):
    """Its detector reads no encodings."""
    value = data.draw(st.sampled_from(["XQ-bluebird-7731", "Projekt Möwe 12", "o'neil & sons"]))
    table = data.draw(st.sampled_from([ESCAPES, CODES]))
    names = data.draw(st.lists(st.sampled_from(sorted(table.keys() - {"named HTML"})), min_size=depth, max_size=depth))
    written = value if table is ESCAPES else f"it is about {value} again"
    for name in names:
        written = table[name](written)
    guard = PrivacyGuard([Everything(value)])
    both = policy("any: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [everything]}")
    guard.release(guard.assess(request(f"see {value} now", session_id="s"), both))
    assessment = guard.assess(request(f"and {written} too", session_id="s"), both)
    assert CLOUD not in assessment.allowed or written not in texts(assessment.request_for(CLOUD)), names


# What is shown of records.


def everything_with(canary: str) -> list[object]:
    """Every public record that may hold a text, with *canary* in each of them."""
    guard = PrivacyGuard()
    asked = Request(messages=(Message(role="user", content=f"{canary} {MAIL}"),), session_id="s")
    for place in PLACES.values():
        asked = place(asked, f"{canary} {MAIL}")
    assessment = guard.assess(asked, LAX)
    partial = PartialAnswer(text=canary)
    assert assessment.lease is not None
    table = assessment.lease.table
    sent = texts(assessment.request_for(CLOUD))
    start, end = next(iter(table.pseudonyms(sent)))
    name = sent[start:end]
    after = guard.assess_continuation(assessment, partial, LAX)
    answer = replace(ANSWER, text=canary)
    decided = HybridLLM([FakeBackend("edge", EDGE, [canary])], policy(OPEN, prefer="edge"), sensors=FixedSensors())
    with decided as client:
        reply: Generation = client.generate(canary)
        stream = client.stream(canary)
        with stream:
            pass
    return [
        asked,
        assessment,
        after,
        guard.clear(after, CLOUD),
        partial,
        answer,
        reply,
        stream,
        Chunk(text=canary),
        table.entry(name),
        guard,
    ]


def test_no_record_shows_a_text_in_its_repr():
    canary = Canaries(1).word()
    seen: set[str] = set()
    for root in everything_with(canary):
        for item in reachable(root):
            if type(item).__module__.startswith("hybrid_llm") and (
                is_dataclass(item) or type(item).__repr__ is not object.__repr__
            ):
                seen.add(type(item).__name__)
                assert leaked([canary, MAIL], repr(item)) == [], type(item)
    assert {"Request", "Message", "Tool", "Sampling", "Assessment", "Cleared", "PartialAnswer", "CachedAnswer"} <= seen
    assert {"Generation", "Chunk", "PseudonymTable"} <= seen


def test_what_leads_to_the_values_of_a_session_cannot_be_pickled():
    guard = PrivacyGuard()
    assessment = guard.assess(request(f"to {MAIL}", session_id="s"), LAX)
    assert assessment.lease is not None
    for held in (assessment.lease, assessment.lease.table, guard.restorer(assessment, CLOUD), assessment):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
            pickle.dumps(held)


# What is reported.

LOUD = "a secret sentence that is nowhere else"


@pytest.mark.parametrize("kind", [RuntimeError, ValueError, KeyError, UnicodeError, AssertionError])
@pytest.mark.parametrize("after", [0, 1])
def test_no_log_event_or_error_repeats_the_text_of_a_backends_own_error(kind, after, tmp_path):
    witness = Witness(own=tmp_path)
    scripts = [["begun ", kind(LOUD)] if after else [kind(LOUD)]]
    edge = FakeBackend("edge", EDGE, *scripts)
    client = HybridLLM([edge], policy(OPEN, prefer="edge"), sensors=FixedSensors(), hooks=[witness])
    with witness.watching(), client, pytest.raises(HybridLLMError) as caught:
        client.generate(f"words {LOUD}")
    witness.caught(caught.value)
    assert leaked([LOUD], "\n".join(witness.told)) == []


@pytest.mark.parametrize("kind", [BackendUnavailable, BackendOverloaded, RequestRejected, StreamInterrupted])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("how", ["one backend", "the next answers"])
def test_no_log_event_or_metric_repeats_the_message_of_a_backends_error(kind, after, how, tmp_path):
    """What a node reports may quote the prompt; the app's error may show it to the app, and to nobody else."""
    witness, registry = Witness(own=tmp_path), CollectorRegistry()
    edge = FakeBackend("edge", EDGE, [*["begun "] * after, kind(LOUD, backend="edge")])
    others = [FakeBackend("cloud", CLOUD, ["fine"])] if how == "the next answers" else []
    prefer = "edge, cloud" if others else "edge"
    hooks = [witness, PrometheusMetrics(registry=registry)]
    client = HybridLLM([edge, *others], policy(OPEN, prefer=prefer), sensors=FixedSensors(), hooks=hooks)
    with witness.watching(), client, suppress(HybridLLMError):
        client.generate(f"words {LOUD}")
    assert leaked([LOUD], "\n".join([*witness.told, generate_latest(registry).decode()])) == []


@pytest.mark.parametrize("where", ["detector", "hook", "cache"])
def test_no_log_repeats_the_text_of_an_extensions_own_error(where, tmp_path):
    class Broken(MemoryCache):
        def get(self, _: Cleared) -> CachedAnswer | None:
            raise RuntimeError(LOUD)

        put = get  # type: ignore[assignment]

    class Detector:
        name = "shy"

        def find(self, text: str) -> Iterator[Finding]:
            raise RuntimeError(text)

    def hook(_: object) -> None:
        raise RuntimeError(LOUD)

    witness = Witness(own=tmp_path)
    edge = FakeBackend("edge", EDGE, ["fine"])
    made = HybridLLM(
        [edge],
        policy("red: {allow: [edge], detect: [shy]}", prefer="edge"),
        sensors=FixedSensors(),
        hooks=[witness, *([hook] if where == "hook" else [])],
        cache=Broken() if where == "cache" else None,
        detectors=[Detector() if where == "detector" else Shy()],
    )
    with witness.watching(), made as client:
        assert client.generate(f"words {LOUD}").text == "fine"
    assert leaked([LOUD], "\n".join(witness.told)) == []
    assert any("failed with RuntimeError" in line for line in witness.told)
