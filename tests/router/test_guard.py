"""The guard in doubt, and the clearance: what is uncertain stays on the device, and what was changed does not pass."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace

import pytest

from hybrid_llm.core.clearance import Clearance, Cleared, Purpose, require_clearance
from hybrid_llm.core.errors import HybridLLMError, PrivacyViolation, StreamInterrupted
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.request import Location, Message, Request, Sampling, Tool
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.answers import CachedAnswer
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.privacy import PrivacyGuard
from hybrid_llm.router.privacy.detectors import Finding
from hybrid_llm.router.privacy.sessions import Lease, Sessions
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import A_DAY, FakeBackend

POLICY = parse_policy(
    "version: 1\nname: p\n"
    "tags:\n"
    "  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}\n"
    "  ids: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [us_ssn, payment_card]}\n"
    "  open: {allow: [edge, cloud], detect: [iban], share_name: true}\n"
    "  free: {allow: [edge, cloud]}\n"
    "rules: [{prefer: [cloud, edge]}]\n"
    "resilience: {retries: 0, continue_streams: true}\n"
)
POLICY_EDGE = parse_policy(
    "version: 1\nname: p\n"
    "tags: {pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}}\n"
    "rules: [{prefer: [edge, cloud]}]\n"
    "resilience: {retries: 0, continue_streams: true}\n"
)
MAIL, SSN = "jane.doe@example.org", "078-05-1120"


def request(text: str = "words", **options) -> Request:
    return Request(messages=(Message(role="user", content=text),), **options)


def texts(seen: Request) -> str:
    return "\n".join(seen.visible_text())


class Misled:
    """A detector that answers with what it is given, and may raise once it sees a pseudonym."""

    def __init__(self, name: str, *findings: object, second_look: bool = False) -> None:
        self.name = name
        self._findings = findings
        self._second_look = second_look

    def find(self, text: str) -> Iterator[Finding]:
        if self._second_look and "_" in text:
            raise RuntimeError(text)
        yield from self._findings  # type: ignore[misc]  # some are no findings: that is what is tried


class Labelling:
    """A detector that calls *value*, wherever it is, a finding of *kind*."""

    def __init__(self, name: str, value: str, kind: str) -> None:
        self.name, self._value, self._kind = name, value, kind

    def find(self, text: str) -> Iterator[Finding]:
        for match in re.finditer(re.escape(self._value), text):
            yield Finding(kind=self._kind, start=match.start(), end=match.end())


@pytest.mark.parametrize(
    "finding",
    [
        Finding(kind="iban", start=0, end=6),
        Finding(kind="iban", start=-1, end=2),
        Finding(kind="iban", start=2, end=2),
        Finding(kind="iban", start=3, end=2),
        Finding(kind="five letters", start=0, end=5),
        (0, 5),
        None,
    ],
)
def test_an_invalid_finding_keeps_the_request_on_the_device_whatever_its_tag_allows(finding):
    assessment = PrivacyGuard([Misled("iban", finding)]).assess(request("words"), POLICY)
    assert assessment.allowed == assessment.cacheable == {Location.EDGE}
    assert "iban failed" in assessment.blocked[Location.CLOUD]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("LOCATION_7BUO3", "location"),
        ("relocation services", "location"),
        ("Jane Doe", "Jane_Doe"),
        ("O'Neill", "oneill"),
        ("Müller", "MÜLLER"),
    ],
)
def test_a_kind_that_would_show_the_value_gives_way_to_the_name_of_its_detector(text, kind):
    assessment = PrivacyGuard([Labelling("email", text, kind)]).assess(request(f"It is {text}."), POLICY)
    assert assessment.replaced == {"EMAIL": 1}
    assert re.fullmatch(r"It is EMAIL_\w+\.", texts(assessment.request_for(Location.CLOUD)))


def test_a_detector_that_fails_in_the_second_scan_keeps_the_request_on_the_device():
    guard = PrivacyGuard([Misled("email", Finding(kind="email", start=0, end=5), second_look=True)])
    assessment = guard.assess(request("words"), POLICY)
    assert assessment.allowed == {Location.EDGE}
    assert assessment.pseudonymised is None


def test_all_tags_that_ask_for_pseudonyms_get_them():
    assessment = PrivacyGuard().assess(request(f"{MAIL} has {SSN} and 4111 1111 1111 1111"), POLICY)
    seen = texts(assessment.request_for(Location.CLOUD))
    assert [word.partition("_")[0] for word in seen.split()] == ["EMAIL", "has", "SSN", "and", "CARD"]


def test_sessions_of_two_tenants_share_no_pseudonym():
    guard = PrivacyGuard()
    seen = {
        texts(guard.assess(request(MAIL, session_id="s", tenant=tenant), POLICY).request_for(Location.CLOUD))
        for tenant in (None, "a", "b")
    }
    assert len(seen) == 3


def test_the_answer_to_a_pseudonymised_request_is_cached_on_the_device_only():
    guard = PrivacyGuard()
    assessment = guard.assess(request(MAIL), POLICY)
    assert assessment.cacheable == {Location.EDGE}
    for_cache = guard.clear(assessment, Location.EDGE, Purpose.CACHE)
    assert MAIL in texts(for_cache.request)
    assert MAIL not in texts(guard.clear(assessment, Location.CLOUD).request)
    with pytest.raises(PrivacyViolation):
        guard.clear(assessment, Location.CLOUD, Purpose.CACHE)


def test_a_value_that_the_session_knows_is_replaced_where_no_detector_finds_it():
    guard = PrivacyGuard()
    first = guard.assess(request(f"I have {SSN}.", session_id="s"), POLICY)
    name = texts(first.request_for(Location.CLOUD)).split()[-1].rstrip(".")
    guard.release(first)
    second = guard.assess(request(f"is {SSN}-1 ours?", session_id="s"), POLICY)
    assert second.request.privacy == frozenset(), "no detector finds it there"
    assert texts(second.request_for(Location.CLOUD)) == f"is {name}-1 ours?"
    assert second.cacheable == {Location.EDGE}
    guard.release(second)
    stranger = guard.assess(request(f"is {SSN}-1 ours?", session_id="other"), POLICY)
    assert stranger.pseudonymised is None
    guard.forget("s")
    assert guard.assess(request("is it ours?", session_id="s"), POLICY).lease is None


class Breaking(FakeBackend):
    """Echoes the last message, from the end of the partial answer on, and breaks off after *cut* characters."""

    cut = 1000

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        self.requests.append(require_clearance(cleared, self.location))
        text, given = self.requests[-1].messages[-1].content, self.requests[-1].answer_prefix
        for letter in text.removeprefix(given)[: self.cut]:
            yield Chunk(text=letter)
        if self.cut < len(text):
            raise StreamInterrupted("cut", backend=self.name)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield chunk


@pytest.mark.parametrize(
    ("said", "goes_on"), [("to ", True), ("to jane.doe@exam", False), ("to j", False), (f"to {MAIL} ", True)]
)
def test_an_answer_that_broke_off_within_a_value_is_not_continued_in_the_cloud(said, goes_on):
    edge, cloud = Breaking("edge", Location.EDGE), Breaking("cloud", Location.CLOUD)
    edge.cut = len(said)
    text = f"to {MAIL} and so on"
    with HybridLLM([edge, cloud], POLICY_EDGE, sensors=FixedSensors()) as client:
        if goes_on:
            assert client.generate(text).text == text
        else:
            with pytest.raises(StreamInterrupted):
                client.generate(text)
    assert len(cloud.requests) == goes_on
    assert not any("jane" in texts(seen) for seen in cloud.requests)


class Interrupting(Breaking):
    """Does something before it breaks off."""

    def __init__(self, name: str, location: Location, cut: int, act: Callable[[], object]) -> None:
        super().__init__(name, location)
        self.cut, self._act = cut, act

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        for number, chunk in enumerate(super().stream(cleared)):
            if number == 1:
                self._act()
            yield chunk


@pytest.mark.parametrize("act", [lambda llm: llm.forget("s"), lambda llm: llm.close(), lambda llm: None])
@pytest.mark.parametrize("where", ["user", "system"])
def test_a_continuation_has_the_pseudonyms_of_its_request_whatever_was_forgotten(act, where):
    clients: list[HybridLLM] = []
    edge = Interrupting("edge", Location.EDGE, 5, lambda: act(clients[0]))
    cloud = Breaking("cloud", Location.CLOUD)
    policy = parse_policy(
        "version: 1\nname: p\n"
        "tags: {ids: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [us_ssn]},"
        " pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}}\n"
        "rules: [{prefer: [edge, cloud], when: request.task == 'near'}, {prefer: [cloud, edge]}]\n"
        "resilience: {retries: 0, continue_streams: true}\n"
    )
    with HybridLLM([edge, cloud], policy, sensors=FixedSensors()) as client:
        clients.append(client)
        client.generate(f"I have {SSN}.", session_id="s")
        assert SSN not in texts(cloud.requests[0])
        more = f" and {MAIL}" if where == "system" else ""
        with suppress(HybridLLMError):
            client.generate(f"what of {SSN}-1{more} is ours?", session_id="s", task="near")
    assert len(edge.requests) == 1
    assert not any(value in texts(seen) for seen in cloud.requests for value in (SSN, MAIL))


def test_a_closed_guard_clears_nothing_of_a_session_for_the_cloud():
    guard = PrivacyGuard()
    guard.close()
    for text, tags in [("words", frozenset()), (MAIL, frozenset({"pii"}))]:
        assessment = guard.assess(request(text, session_id="s"), POLICY)
        assert assessment.allowed == {Location.EDGE}
        assert "closed" in assessment.blocked[Location.CLOUD]
        assert assessment.request.privacy == tags
    assert Location.CLOUD in guard.assess(request("words"), POLICY).allowed


JSON_TEXT = '{"to": "\\\\ \\" \\u00e9 jane.doe@example.org", "or": "jane.doe@example.org"}'


@pytest.mark.parametrize("at", range(len(JSON_TEXT)))
def test_an_answer_in_json_that_breaks_off_anywhere_stays_the_same_json(at):
    edge, cloud = Breaking("edge", Location.EDGE), Breaking("cloud", Location.CLOUD)
    edge.cut = at
    with HybridLLM([edge, cloud], POLICY_EDGE, sensors=FixedSensors()) as client:
        try:
            assert client.generate(JSON_TEXT, output_schema={"type": "object"}).text == JSON_TEXT
        except StreamInterrupted:
            assert any(JSON_TEXT[:at].endswith(MAIL[:end]) for end in range(1, len(MAIL)))
    assert not any("jane" in texts(seen) for seen in cloud.requests)


SPLIT = Sampling(stop=("f", "g"))
"""The same texts in the same order as those of FULL are, when another one of them is a tool's."""
FULL = Request(
    messages=(Message(role="system", content="a"), Message(role="user", content="b")),
    output_schema="c",
    tools=(Tool(name="d", description="e", parameters="f"),),
    sampling=Sampling(stop=("g",)),
    answer_prefix="h",
    task="i",
    tenant="j",
    session_id="k",
    request_id="l",
    privacy=frozenset({"open"}),
    deadline=A_DAY,
)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": FULL.messages[:1]},
        {"messages": (*FULL.messages, Message(role="user", content=""))},
        {"messages": (Message(role="user", content="a"), FULL.messages[1])},
        {"output_schema": None},
        {"output_schema": ""},
        {"tools": ()},
        {"tools": (*FULL.tools, Tool(name="", parameters=""))},
        {"sampling": Sampling()},
        {"sampling": Sampling(stop=("g", ""))},
        {"sampling": Sampling(stop=("gh",)), "answer_prefix": ""},
        {"answer_prefix": "x"},
        {"output_schema": None, "tools": (Tool(name="c", description="d", parameters="e"),), "sampling": SPLIT},
        {"task": "x"},
        {"tenant": None},
        {"session_id": None},
        {"request_id": "x"},
        {"privacy": frozenset()},
    ],
)
def test_whatever_is_changed_after_the_guard_does_not_pass(change):
    guard = PrivacyGuard()
    good = guard.clear(guard.assess(FULL, POLICY), Location.CLOUD)
    changed = replace(good.request, **change)
    for tags in (good.clearance.tags, changed.privacy):
        with pytest.raises(PrivacyViolation):
            require_clearance(Cleared(request=changed, clearance=replace(good.clearance, tags=tags)), Location.CLOUD)


def test_a_relabelled_clearance_passes_neither_for_its_new_nor_for_its_old_label():
    guard = PrivacyGuard()
    assessment = guard.assess(FULL, POLICY)
    for location in Location:
        for purpose in Purpose:
            good = guard.clear(assessment, location, purpose)
            assert require_clearance(good, location, purpose) == FULL
            for other in [c for c in _labels(good.clearance) if c != good.clearance]:
                for wanted in Location:
                    for use in Purpose:
                        with pytest.raises(PrivacyViolation):
                            require_clearance(replace(good, clearance=other), wanted, use)


def _labels(clearance: Clearance) -> list[Clearance]:
    tags = (clearance.tags, frozenset[str]())
    return [replace(clearance, location=p, purpose=u, tags=t) for p in Location for u in Purpose for t in tags]


class Counting(FakeBackend):
    """A cloud backend whose `count_tokens` must never be called: it would see a request without a clearance."""

    def count_tokens(self, request: Request) -> int:
        raise AssertionError("a request without a clearance")


def test_only_a_backend_on_the_device_counts_the_tokens_of_a_request_before_clearance():
    cloud = Counting("cloud", Location.CLOUD)
    with HybridLLM([cloud], parse_policy("version: 1\nname: p\n"), sensors=FixedSensors()) as client:
        assert client.generate("words").usage.prompt_tokens == 3
        assert client.decide("x" * 100_000).order == ("cloud",)


def test_the_mac_of_one_process_is_not_valid_in_another():
    code = (
        "from hybrid_llm.policies import parse_policy\n"
        "from hybrid_llm.router.privacy import PrivacyGuard\n"
        "from hybrid_llm.core.request import Location, Message, Request\n"
        "guard, policy = PrivacyGuard(), parse_policy('version: 1\\nname: p\\n')\n"
        "judged = guard.assess(Request(messages=(Message(role='user', content='words'),)), policy)\n"
        "print(guard.clear(judged, Location.CLOUD).clearance.mac.hex())\n"
    )
    macs = {subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(macs) == 2


def test_a_failing_hook_is_logged_without_its_message(caplog):
    def hook(event: RequestEvent) -> None:
        raise RuntimeError("SECRET")

    edge = FakeBackend("edge", Location.EDGE)
    policy = parse_policy("version: 1\nname: p\n", backends={"edge": Location.EDGE})
    with caplog.at_level(logging.DEBUG), HybridLLM([edge], policy, sensors=FixedSensors(), hooks=[hook]) as client:
        assert client.generate("words").text == "ok"
    assert "RuntimeError" in caplog.text
    assert "SECRET" not in caplog.text


def test_no_repr_shows_a_text_of_a_request():
    guard = PrivacyGuard()
    secret = request(
        "SECRET",
        output_schema='"SECRET"',
        tools=(Tool(name="SECRET", description="SECRET", parameters="SECRET"),),
        sampling=Sampling(stop=("SECRET",)),
        answer_prefix="SECRET",
    )
    assessment = guard.assess(secret, POLICY)
    for shown in (secret, assessment, guard.clear(assessment, Location.CLOUD), secret.tools, secret.sampling):
        assert "SECRET" not in repr(shown)


class Leases(Sessions):
    """Sessions that show what they have lent."""

    def __init__(self) -> None:
        super().__init__()
        self._lent: list[Lease] = []

    def open(self, session_id: str | None, *, tenant: str | None = None) -> Lease:
        self._lent.append(super().open(session_id, tenant=tenant))
        return self._lent[-1]

    def held(self) -> int:
        """How many tables are not wiped."""
        left = 0
        for lease in self._lent:
            with suppress(PrivacyViolation):
                lease.table.check()
                left += 1
        return left


@pytest.fixture
def sessions() -> Leases:
    return Leases()


class Unwell(FakeBackend):
    """The health of its endpoints raises."""

    class _Health(HealthProbe):
        @property
        def breaker(self):
            raise OSError("no state")

    endpoint_health = _Health(failures=1, open_s=1.0)


def guarded(sessions: Leases, *backends: FakeBackend, **options) -> HybridLLM:
    client = HybridLLM(backends, POLICY, sensors=FixedSensors(), **options)
    client._pipeline._guard = PrivacyGuard(sessions=sessions)  # the public face takes no sessions
    return client


def test_pseudonyms_of_a_request_are_forgotten_however_it_ends(sessions):
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    events: list[RequestEvent] = []
    with guarded(sessions, edge, cloud, hooks=[events.append]) as client:
        client.generate(MAIL)
        client.decide(MAIL)
        with client.stream(MAIL) as stream:
            next(stream)
        with client.stream(MAIL):
            assert sessions.held() == 1
        assert sessions.held() == 0

        async def leave() -> None:
            async with client.astream(MAIL):
                pass

        asyncio.run(leave())
        assert sessions.held() == 0
    assert [event.error for event in events] == ["", "cancelled", "cancelled", "cancelled"]


def test_pseudonyms_of_a_request_that_cannot_be_decided_are_forgotten(sessions):
    with guarded(sessions, Unwell("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)) as client:
        with pytest.raises(OSError, match="no state"):
            client.generate(MAIL)
        assert sessions.held() == 0


def test_pseudonyms_of_a_request_that_must_stay_are_forgotten():
    sessions = Leases()
    detector = Misled("email", Finding(kind="email", start=0, end=5), second_look=True)
    PrivacyGuard([detector], sessions=sessions).assess(request("words"), POLICY)
    assert sessions.held() == 0


class BrokenCache(MemoryCache):
    def get(self, cleared):
        raise ConnectionError(texts(cleared.request))

    def put(self, cleared, answer):
        raise ConnectionError(answer.text)


def test_a_failing_cache_costs_no_answer_and_its_message_is_not_logged(sessions, caplog):
    edge, cloud = FakeBackend("edge", Location.EDGE), Breaking("cloud", Location.CLOUD)
    with caplog.at_level(logging.DEBUG), guarded(sessions, edge, cloud, cache=BrokenCache()) as client:
        assert client.generate(MAIL).text == MAIL
        assert sessions.held() == 0
    assert caplog.text.count("ConnectionError") == 2
    assert MAIL not in caplog.text


def test_a_cache_neither_returns_nor_stores_without_a_clearance_for_a_cache():
    guard, cache = PrivacyGuard(), MemoryCache()
    assessment = guard.assess(request("words"), POLICY)
    answer = CachedAnswer(text="", finish_reason=FinishReason.STOP, usage=Usage(), backend="edge")
    for wrong in (
        guard.clear(assessment, Location.EDGE),
        guard.clear(assessment, Location.CLOUD, Purpose.CACHE),
        assessment.request,
    ):
        with pytest.raises(PrivacyViolation):
            cache.get(wrong)
        with pytest.raises(PrivacyViolation):
            cache.put(wrong, answer)
    right = guard.clear(assessment, Location.EDGE, Purpose.CACHE)
    cache.put(right, answer)
    assert cache.get(right) == answer


def test_an_answer_is_cached_for_the_same_tags_and_only_if_it_is_deterministic():
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=MemoryCache()) as client:
        new = [{}, {"privacy": {"open"}}, {"privacy": {"free"}}, {"temperature": 0.5}, {"temperature": 0.5}]
        assert [client.generate("words", **options).cached for options in new] == [False] * 5
        assert [client.generate("words", **options).cached for options in new] == [True] * 3 + [False] * 2


def test_an_answer_that_broke_off_is_not_cached():
    broken = FakeBackend("edge", Location.EDGE, ["half", StreamInterrupted("cut", backend="edge")], ["whole"])
    policy = parse_policy("version: 1\nname: p\n", backends={"edge": Location.EDGE})
    with HybridLLM([broken], policy, sensors=FixedSensors(), cache=MemoryCache()) as client:
        with pytest.raises(StreamInterrupted):
            client.generate("words")
        assert [client.generate("words").cached for _ in range(2)] == [False, True]


class Unclearing(MemoryCache):
    """Asks for more than it is given."""

    def get(self, cleared):
        require_clearance(cleared, Location.CLOUD, Purpose.CACHE)


def test_a_cache_that_demands_an_uncleared_request_ends_it():
    edge, cloud = FakeBackend("edge", Location.EDGE), FakeBackend("cloud", Location.CLOUD)
    client = HybridLLM([edge, cloud], POLICY, sensors=FixedSensors(), cache=Unclearing())
    with client, pytest.raises(PrivacyViolation):
        client.generate("words")
    assert not [*edge.requests, *cloud.requests]


def test_a_closed_client_restores_no_value():
    edge, cloud = FakeBackend("edge", Location.EDGE), Breaking("cloud", Location.CLOUD)
    client = HybridLLM([edge, cloud], POLICY, sensors=FixedSensors())
    stream = client.stream(f"to {MAIL}")
    next(stream)
    client.close()
    with pytest.raises(HybridLLMError):
        list(stream)


def test_what_is_held_back_at_the_end_of_an_answer_comes_with_its_last_chunk():
    edge, cloud = FakeBackend("edge", Location.EDGE), Breaking("cloud", Location.CLOUD)
    with HybridLLM([edge, cloud], POLICY, sensors=FixedSensors()) as client:
        assert client.generate(f"{MAIL} EMAIL").text == f"{MAIL} EMAIL"
