"""The data of the console over plain HTTP: what it shows, to whom, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from hybrid_llm import HybridLLM
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import Signals
from hybrid_llm.gateway.console.journal import Journal
from hybrid_llm.gateway.console.static import read_static
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.spending.ledger import Price
from tests.gateway.conftest import Serve, fakes, served
from tests.gateway.test_http import Reply, send

POLICY = """\
version: 1
name: console
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
objectives: {budget: 2 USD/day}
rules:
  - exclude: cloud
    when: request.task == "private"
    because: it is private
  - prefer: [cloud, edge]
    because: the cloud first
"""
CHAT = "/v1/chat/completions"
DATA = "/console/data/"
SECRET = "sesame-sesame"


def ask(url: str, text: str = "hello", **more: Any) -> Reply:
    headers = more.pop("headers", {})
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]} | more
    return send(url, CHAT, body, **headers)


def get(url: str, path: str, **headers: str) -> Reply:
    return send(url, DATA + path, method="GET", **headers)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A gateway under the policy above, whose cloud costs something."""
    locations = {"edge": Location.EDGE, "cloud": Location.CLOUD}
    price = Price(input_per_1k=1.0, output_per_1k=1.0, currency="USD")
    client = HybridLLM(list(fakes(["fine"])), parse_policy(POLICY, backends=locations), prices={"cloud": price})
    with served(client) as address:
        yield address


def decision_of(url: str, reply: Reply) -> Any:
    return get(url, f"decisions/{reply.headers['x-request-id']}").document


class TestADecision:
    def test_it_says_where_why_and_what_left(self, url: str) -> None:
        found = decision_of(url, ask(url, "Write to bob@example.org and ann@example.org."))
        assert (found["backend"], found["location"], found["rule"]) == ("cloud", "cloud", "rules[1]")
        assert (found["because"], found["detected"]) == ("the cloud first", ["pii"])
        left = {"backend": "cloud", "pseudonymised": True, "replaced": {"EMAIL": 2}, "sealed": False}
        assert found["departures"] == [left]
        assert found["cost"] > 0.0
        assert [rule["matched"] for rule in found["trace"]] == [False, True]
        assert found["trace"][0]["values"] == [["request.task", "chat"]]

    def test_a_tagged_one_leaves_nothing(self, url: str) -> None:
        found = decision_of(url, ask(url, hybrid={"privacy": ["phi"]}))
        assert (found["backend"], found["declared"], found["departures"]) == ("edge", ["phi"], [])

    def test_one_that_failed_is_there_too(self, url: str) -> None:
        reply = ask(url, model="cloud", hybrid={"privacy": ["phi"]})
        assert reply.status == 503
        found = decision_of(url, reply)
        assert (found["error"], found["order"]) == ("NoEligibleBackend", [])
        assert found["excluded"]["cloud"] == "tag phi allows only edge"

    def test_it_never_holds_the_text(self, url: str) -> None:
        reply = ask(url, f"{SECRET} bob@example.org", hybrid={"privacy": ["pii"]}, stop=[f"{SECRET}!"])
        everything = [get(url, path).raw for path in ("overview", "signals", "decisions", "spending", "policy")]
        everything.append(get(url, f"decisions/{reply.headers['x-request-id']}").raw)
        assert not [raw for raw in everything if SECRET.encode() in raw or b"bob@" in raw or b"fine" in raw]

    def test_only_newer_ones_are_sent_again(self, url: str) -> None:
        ask(url)
        (latest, *_) = get(url, "decisions").document["decisions"]
        assert get(url, f"decisions?after={latest['number']}").document == {"decisions": []}
        ask(url)
        assert len(get(url, f"decisions?after={latest['number']}").document["decisions"]) == 1

    def test_one_that_is_not_there_is_said(self, url: str) -> None:
        assert get(url, "decisions/0123").status == 404


class TestTheOtherData:
    def test_the_overview_has_tags_and_backends(self, url: str) -> None:
        found = get(url, "overview").document
        assert (found["policy"], found["currency"], found["tenant"]) == ("console", "USD", None)
        assert found["tags"][1] == {
            "name": "pii", "allow": ["cloud", "edge"], "pseudonymise": True, "detect": ["email"]
        }  # fmt: skip
        assert [each["location"] for each in found["backends"]] == ["edge", "cloud"]

    def test_signals_have_device_network_and_backends(self, url: str) -> None:
        found = get(url, "signals").document
        assert found["device"]["memory_total_mb"] > 0
        assert found["network"]["online"] in (True, False)
        assert [state["breaker"] for state in found["backends"]] == ["closed", "closed"]

    def test_spending_is_by_tenant_and_day_with_the_budget(self, url: str) -> None:
        ask(url, hybrid={"tenant": "acme"})
        found = get(url, "spending").document
        assert (found["budget"], found["currency"]) == (2.0, "USD")
        assert [line["requests"] for line in found["lines"] if line["tenant"] == "acme"] == [1]

    def test_what_the_budget_no_longer_allows_is_said(self, serve: Serve) -> None:
        locations = {"edge": Location.EDGE, "cloud": Location.CLOUD}
        price = Price(input_per_1k=100.0, output_per_1k=100.0, currency="USD")
        client = HybridLLM(list(fakes()), parse_policy(POLICY, backends=locations), prices={"cloud": price})
        with served(client) as url:
            assert "the budget of 2 USD a day" in get(url, "spending").document["excluded"]["cloud"]

    def test_the_policy_has_its_text_and_what_each_rule_did(self, url: str) -> None:
        before = get(url, "policy").document
        ask(url, hybrid={"task": "private"})
        ask(url, hybrid={"privacy": ["phi"]})
        after = get(url, "policy").document
        assert (after["text"], [rule["line"] for rule in after["rules"]]) == (POLICY, [8, 11])
        assert after["requests"] - before["requests"] == 2
        assert after["rules"][0]["excluded"] - before["rules"][0]["excluded"] == 1
        assert after["rules"][1]["decided"] - before["rules"][1]["decided"] == 2
        assert after["by_tags"] - before["by_tags"] == 1


class TestAPreview:
    def test_two_policies_decide_side_by_side(self, url: str) -> None:
        edited = POLICY.replace("prefer: [cloud, edge]", "prefer: [edge, cloud]")
        found = send(url, DATA + "preview", {"prompt": "hello", "policy": edited}).document
        assert (found["current"]["order"], found["edited"]["order"]) == (["cloud", "edge"], ["edge", "cloud"])
        assert get(url, "overview").document["digest"] == found["current"]["digest"] != found["edited"]["digest"]

    def test_a_broken_policy_has_every_position(self, url: str) -> None:
        edited = POLICY.replace("request.task", "request.tsk").replace("prefer", "prefr")
        found = send(url, DATA + "preview", {"prompt": "hello", "policy": edited}).document
        assert found["edited"] is None
        assert [(each["line"], each["column"]) for each in found["faults"]][:2] == [(9, 19), (11, 5)]
        assert found["faults"][0]["hint"] == "did you mean `task`?"
        assert "\n" not in found["faults"][0]["message"]

    def test_a_policy_in_another_currency_has_its_reason(self, url: str) -> None:
        edited = POLICY.replace("USD", "EUR")
        found = send(url, DATA + "preview", {"prompt": "hello", "policy": edited}).document
        assert (found["edited"], found["faults"][0]["line"]) == (None, 0)

    def test_a_tag_that_only_one_policy_has_is_a_refusal_of_the_other(self, url: str) -> None:
        edited = "version: 1\nname: bare\nrules: [{prefer: [edge]}]\n"
        body = {"prompt": "hello", "policy": edited, "privacy": ["phi"]}
        assert "phi" in send(url, DATA + "preview", body).document["edited"]["refused"]

    def test_what_the_cloud_sees_is_shown_to_who_has_typed_it(self, url: str) -> None:
        text = "Write to bob@example.org"
        ask(url, text, hybrid={"session": "s1"})
        found = send(url, DATA + "preview", {"prompt": text, "session": "s1"}).document["current"]
        assert found["replaced"] == {"EMAIL": 1}
        assert "bob@" not in found["shown"][0]
        again = send(url, DATA + "preview", {"prompt": text, "session": "s1"}).document["current"]
        assert again["shown"] == found["shown"]
        assert send(url, DATA + "forget", {"session": "s1"}).document == {"forgotten": True}
        assert send(url, DATA + "preview", {"prompt": text, "session": "s1"}).document["current"] != found

    def test_nothing_is_sent(self, serve: Serve) -> None:
        edge, cloud = fakes()
        url = serve(edge, cloud)
        assert send(url, DATA + "preview", {"prompt": "x", "policy": POLICY}).status == 200
        assert edge.requests == cloud.requests == []

    @pytest.mark.parametrize(
        ("body", "status"),
        [
            ({}, 400),
            ({"prompt": ""}, 400),
            ({"prompt": [{"role": "king"}]}, 400),
            ({"prompt": "x", "privacy": ["none"]}, 400),
            ({"prompt": "x", "privacy": [1]}, 400),
            ({"prompt": "x", "deadline": "soon"}, 400),
            ({"prompt": "x", "max_tokens": True}, 400),
            ({"prompt": "x", "colour": "red"}, 400),
            ({"prompt": "x", "policy": "#" * 70_000}, 413),
            ({"prompt": "x" * 1_100_000}, 413),
        ],
    )
    def test_what_is_malformed_is_named(self, url: str, body: Any, status: int) -> None:
        reply = send(url, DATA + "preview", body)
        assert (reply.status, reply.document["error"]["type"]) == (status, "invalid_request_error")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["prompt", "policy", "privacy", "task", "max_tokens", "deadline", "backend", "session", "x"])
RELAXED = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@RELAXED
@given(body=st.dictionaries(NAMES, JSON, max_size=5) | JSON, path=st.sampled_from(["preview", "forget"]))
def test_no_body_makes_it_fail(url: str, body: Any, path: str) -> None:
    assert send(url, DATA + path, json.dumps(body).encode()).status < 500


@RELAXED
@given(edit=st.text(max_size=30), at=st.integers(0, len(POLICY)), cut=st.integers(0, 40))
def test_no_policy_makes_it_fail(url: str, edit: str, at: int, cut: int) -> None:
    body = {"prompt": "hello", "policy": POLICY[:at] + edit + POLICY[at + cut :]}
    found = send(url, DATA + "preview", body)
    assert found.status == 200
    assert (found.document["edited"] is None) == bool(found.document["faults"])


@RELAXED
@given(after=st.text("0123456789-+ e٣", min_size=1, max_size=25))
def test_no_number_makes_it_fail(url: str, after: str) -> None:
    from urllib.parse import quote

    assert get(url, f"decisions?after={quote(after)}").status in (200, 400)


class TestWho:
    def test_the_page_is_for_this_machine_alone(self, url: str) -> None:
        for path in ("/", "/console/main.js", DATA + "overview"):
            assert send(url, path, method="GET").status == 200
            assert send(url, path, method="GET", host="evil.example").status == 403
            assert send(url, path, method="GET", origin="https://evil.example").status == 403
        assert get(url, "overview", sec_fetch_site="cross-site").status == 403
        assert send(url, DATA + "preview", {"prompt": "x"}, content_type="text/plain").status == 415

    def test_a_tenant_sees_its_own(self, tmp_path: Path) -> None:
        secrets = {"alice": "hl-alice", "bob": "hl-bob"}
        keys = tmp_path / "keys.json"
        keys.write_text(
            json.dumps(
                [{"sha256": hashlib.sha256(key.encode()).hexdigest(), "tenant": name} for name, key in secrets.items()]
            )
        )
        locations = {"edge": Location.EDGE, "cloud": Location.CLOUD}
        price = Price(input_per_1k=1.0, output_per_1k=1.0, currency="USD")
        client = HybridLLM(list(fakes()), parse_policy(POLICY, backends=locations), prices={"cloud": price})
        with served(client, keys=keys) as url:
            assert send(url, "/", method="GET").status == 200  # the page asks for the key
            for path in ("overview", "signals", "decisions", "decisions/1", "spending", "policy"):
                assert get(url, path).status == 401
                assert get(url, path, authorization="Bearer wrong").status == 401
            assert send(url, DATA + "preview", {"prompt": "x"}).status == 401
            alice, bob = ({"authorization": f"Bearer {key}"} for key in secrets.values())
            reply = ask(url, headers=alice)
            ask(url, headers=bob)
            own = get(url, "decisions", **alice).document["decisions"]
            assert [each["tenant"] for each in own] == ["alice"]
            assert get(url, f"decisions/{reply.headers['x-request-id']}", **alice).status == 200
            assert get(url, f"decisions/{reply.headers['x-request-id']}", **bob).status == 404
            assert [each["tenant"] for each in get(url, "spending", **bob).document["lines"]] == ["bob"]
            assert get(url, "policy", **bob).document["requests"] == 1

    def test_the_tags_of_a_key_count_in_its_previews(self, serve: Serve, tmp_path: Path) -> None:
        keys = tmp_path / "keys.json"
        entry = {"sha256": hashlib.sha256(b"key").hexdigest(), "tenant": "a", "privacy": ["phi"]}
        keys.write_text(json.dumps([entry]))
        url = serve(*fakes(), policy=POLICY, keys=keys)
        body = {"prompt": "hello", "privacy": ["pii"]}
        found = send(url, DATA + "preview", body, authorization="Bearer key").document["current"]
        assert (found["order"], found["excluded"]["cloud"]) == (["edge"], "tag phi allows only edge")

    def test_a_tenant_forgets_its_own_sessions_alone(self, serve: Serve, tmp_path: Path) -> None:
        keys = tmp_path / "keys.json"
        digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b")}
        keys.write_text(json.dumps([{"sha256": digest, "tenant": name} for name, digest in digests.items()]))
        url = serve(*fakes(), policy=POLICY, keys=keys)
        own, other = ({"authorization": f"Bearer {name}"} for name in digests)
        body = {"prompt": "Write to bob@example.org", "session": "s1"}
        ask(url, body["prompt"], hybrid={"session": "s1"}, headers=own)
        before = send(url, DATA + "preview", body, **own).document["current"]["shown"]
        for headers, stays in ((other, True), (own, False)):
            assert send(url, DATA + "forget", {"session": "s1"}, **headers).document == {"forgotten": True}
            assert (send(url, DATA + "preview", body, **own).document["current"]["shown"] == before) == stays

    def test_without_a_console_there_is_no_page(self, serve: Serve) -> None:
        url = serve(*fakes(), console=False)
        assert [send(url, path, method="GET").status for path in ("/", "/console/main.js", DATA + "overview")] == [
            404
        ] * 3


class TestThePage:
    def test_it_may_run_its_own_files_alone(self, url: str) -> None:
        reply = send(url, "/", method="GET")
        rules = dict(rule.strip().split(" ", 1) for rule in reply.headers["content-security-policy"].split(";"))
        assert (rules["default-src"], rules["script-src"], rules["style-src"]) == ("'none'", "'self'", "'self'")
        assert (rules["require-trusted-types-for"], rules["frame-ancestors"]) == ("'script'", "'none'")
        assert "set-cookie" not in reply.headers
        assert reply.headers["x-content-type-options"] == "nosniff"

    def test_a_file_is_sent_once(self, url: str) -> None:
        first = send(url, "/console/base.css", method="GET")
        again = send(url, "/console/base.css", method="GET", if_none_match=first.headers["etag"])
        assert (first.headers["content-type"], again.status, again.raw) == ("text/css; charset=utf-8", 304, b"")

    @pytest.mark.parametrize("name", ["..%2fapp.py", "%2e%2e%2fapp.py", "routes.py", "x", "", "data"])
    def test_no_other_file_is_sent(self, url: str, name: str) -> None:
        assert send(url, f"/console/{name}", method="GET").status == 404

    def test_its_files_name_no_other_host(self) -> None:
        for name, file in read_static().items():
            text = file.body.decode().replace("http://www.w3.org/2000/svg", "")
            assert "//" not in text.replace("// ", "").replace("\n//", ""), name
            assert "innerHTML" not in text, name


class TestTheJournal:
    @staticmethod
    def event(number: int, tenant: str | None = None, digest: str = "d") -> RequestEvent:
        return RequestEvent(
            metadata=RequestMetadata(request_id=str(number), tenant=tenant),
            signals=Signals(),
            decision=Decision(order=("edge",), excluded={}, policy="p", digest=digest, rule="rules[0]"),
        )

    def test_it_is_bounded(self) -> None:
        journal = Journal(capacity=3)
        for number in range(1000):
            journal(self.event(number, tenant=f"t{number}", digest=f"d{number % 7}"))
        assert [entry.event.request_id for entry in journal.latest(None)] == ["999", "998", "997"]
        assert journal.find("5", None) is None
        assert len(journal._counts) == 256

    def test_what_is_counted_for_a_tenant_is_counted_for_all(self) -> None:
        journal = Journal()
        journal(self.event(1, "a"))
        journal(self.event(2, "b"))
        journal(self.event(3))
        assert [journal.counts("d", tenant).requests for tenant in (None, "a", "b", "c")] == [3, 1, 1, 0]
