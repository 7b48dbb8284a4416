"""A policy can be tried on a request without being in force; an answer says what left the device, and what it cost."""

from __future__ import annotations

import asyncio
import json

import pytest

from hybrid_llm import HybridLLM, PolicyError
from hybrid_llm.core.errors import BackendUnavailable, ConfigError, NoEligibleBackend, StreamInterrupted
from hybrid_llm.core.generation import Departure
from hybrid_llm.core.request import Location
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.spending.ledger import Price

PII = """\
version: 1
name: pseudonyms
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
rules: [{prefer: [cloud, edge]}]
resilience: {retries: 0, continue_streams: true}
"""
EDGE_FIRST = "version: 1\nname: edited\nrules:\n  - prefer: [edge, cloud]\n    because: edited\n"
TWO = "Ask bob@example.org and ann@example.org, then bob@example.org again."


def test_another_policy_is_tried_and_stays_out_of_force(make_client, edge, cloud):
    client = make_client(edge, cloud, policy=PII)
    edited = client.parse_policy(EDGE_FIRST)
    assert client.preview("x").decision.order == ("cloud", "edge")
    assert client.preview("x", edited).decision.order == ("edge", "cloud")
    assert asyncio.run(client.apreview("x", edited)).decision.because == "edited"
    assert client.policy.name == "pseudonyms"
    assert edge.requests == cloud.requests == []


def test_a_preview_has_what_the_cloud_would_see(make_client, edge, cloud):
    client = make_client(edge, cloud, policy=PII)
    preview = client.preview(TWO)
    assert (preview.declared, preview.decision.tags) == (frozenset(), {"pii"})
    assert (preview.pseudonymised, preview.replaced) == (True, {"EMAIL": 2})
    assert preview.shown is not None
    assert "example.org" not in preview.shown[0]
    assert preview.shown[0] not in repr(preview)
    assert client.preview("nothing").shown == ("nothing",)


def test_what_must_not_go_to_the_cloud_is_not_shown_for_it(make_client, edge, cloud):
    preview = make_client(edge, cloud, policy=PII).preview("x", privacy={"phi"})
    assert (preview.shown, preview.allowed, preview.declared) == (None, {Location.EDGE}, {"phi"})


def test_the_preview_of_a_session_has_the_pseudonyms_that_were_sent(make_client, edge, cloud):
    client = make_client(edge, cloud, policy=PII)
    client.generate(TWO, session_id="s")
    assert client.preview(TWO, session_id="s").shown == (cloud.requests[0].messages[0].content,)


def test_a_broken_policy_is_refused_with_every_position(make_client, edge, cloud):
    with pytest.raises(PolicyError) as raised:
        make_client(edge, cloud).parse_policy("version: 1\nname: x\nrules:\n  - prefer: [clown]\n  - prefr: edge\n")
    assert (raised.value.errors[0].line, raised.value.errors[0].column) == (4, 14)
    assert len(raised.value.errors) >= 2


def test_a_policy_in_another_currency_is_refused(make_client, edge, cloud):
    client = make_client(edge, cloud, prices={"cloud": Price(input_per_1k=1, output_per_1k=1, currency="USD")})
    with pytest.raises(ConfigError, match="EUR"):
        client.parse_policy("version: 1\nname: x\nobjectives: {budget: 5 EUR/day}\nrules: [{prefer: [edge]}]\n")


class TestWhatLeft:
    def test_nothing_leaves_for_the_device(self, make_client, edge, cloud):
        reply = make_client(edge, cloud, policy=PII).generate("x", privacy={"phi"})
        assert (reply.backend, reply.departures, reply.declared) == ("edge", (), {"phi"})

    def test_texts_leave_as_they_are(self, make_client, edge, cloud):
        assert make_client(edge, cloud, policy=PII).generate("x").departures == (Departure(backend="cloud"),)

    def test_pseudonyms_are_counted_once_each(self, make_client, edge, cloud):
        client, events = make_client(edge, cloud, policy=PII), []
        client.add_hook(events.append)
        reply = client.generate(TWO)
        left = (Departure(backend="cloud", pseudonymised=True, replaced={"EMAIL": 2}),)
        assert reply.departures == left
        assert isinstance(events[0], RequestEvent)
        assert events[0].departures == left
        assert json.loads(json.dumps(reply.to_dict()))["departures"][0]["replaced"] == {"EMAIL": 2}

    def test_a_call_that_failed_counts_too(self, make_client, edge, cloud):
        cloud._scripts = [[BackendUnavailable("gone", backend="cloud", reason="refused")]]
        reply = make_client(edge, cloud, policy=PII).generate("x")
        assert (reply.backend, reply.departures) == ("edge", (Departure(backend="cloud"),))

    def test_a_continuation_counts_with_its_own_values(self, make_client, edge, cloud):
        edge._scripts = [["Write to ", "eve@example.org", " or ", StreamInterrupted("cut", backend="edge")]]
        policy = PII.replace("[cloud, edge]", "[edge, cloud]")
        reply = make_client(edge, cloud, policy=policy).generate("x")
        assert reply.departures == (Departure(backend="cloud", pseudonymised=True, replaced={"EMAIL": 1}),)

    def test_a_request_that_no_backend_may_take_has_its_tags(self, make_client, cloud):
        client, events = make_client(cloud, policy=PII.replace("[cloud, edge]", "[cloud]")), []
        client.add_hook(events.append)
        with pytest.raises(NoEligibleBackend):
            client.generate("x", privacy={"phi"})
        assert (events[0].declared, events[0].departures) == ({"phi"}, ())


def test_an_answer_has_its_cost(make_client, edge, cloud):
    client = make_client(edge, cloud, policy=PII, prices={"cloud": Price(input_per_1k=1.0, output_per_1k=2.0)})
    reply = client.generate("x", tenant="acme")
    assert reply.cost == pytest.approx((reply.usage.prompt_tokens + 2 * reply.usage.completion_tokens) / 1000)
    (entry,) = client.spending()
    assert (entry.tenant, entry.spent, entry.requests) == ("acme", round(reply.cost * 1e9), 1)


def test_a_hook_that_is_added_is_told_of_the_client(make_client, edge):
    class Watching:
        attached = 0

        def __call__(self, event: RequestEvent) -> None: ...

        def attach(self, status) -> None:
            self.attached += status().signals.backends["edge"].ready

        def detach(self, status) -> None:
            self.attached -= 1

    client, hook = make_client(edge), Watching()
    client.add_hook(hook)
    assert hook.attached == 1
    client.close()
    assert hook.attached == 0


def test_a_hook_is_added_before_the_file_is_read(tmp_path):
    (tmp_path / "hybrid.yaml").write_text("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n")

    async def main() -> list[RequestEvent]:
        events: list[RequestEvent] = []
        llm = HybridLLM.from_config(tmp_path / "hybrid.yaml")
        llm.add_hook(events.append)
        async with llm:
            await llm.agenerate("Is this review positive? 'A delight.'", max_tokens=1)
        return events

    assert [event.backend for event in asyncio.run(main())] == ["edge"]
